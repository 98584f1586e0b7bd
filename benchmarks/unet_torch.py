"""Run diffusers' side of benchmarks/unet.py: its UNet in PyTorch, with the weights of ours.

On a GPU attention is cuDNN's, convolutions are channels-last, and cuDNN times its algorithms, as
XLA does. Rematerialisation is diffusers' gradient checkpointing, of the same blocks as ours.
"""

import concurrent.futures
import contextlib
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import measure
import numpy as np
import torch
from diffusers import UNet2DConditionModel
from random_weights import random_params
from torch.nn.attention import SDPBackend, sdpa_kernel
from unet_sides import ADAMW, CLIP, DECAY, Case, inputs, model, shapes_of

from cv3jax.models.unet import UNet
from cv3jax.weights.diffusers import unet_config, unet_names
from cv3jax.weights.mapping import to_torch
from cv3jax.weights.names import unet_entries


def weights(net: UNet, case: Case) -> dict[str, torch.Tensor]:
    """Return the weights of our side by diffusers' names, in float32."""
    fields = ("channels", "channel_mult", "res_blocks", "depth", "mid_depth", "w_dim")
    sizes = {key: getattr(net, key) for key in fields}
    params, by_path = random_params(shapes_of(net, case)), defaultdict(list)
    for entry in unet_names(unet_entries(**sizes), len(net.channel_mult)):
        by_path[entry.path].append(entry)
    tensors: dict[str, torch.Tensor] = {}
    with concurrent.futures.ThreadPoolExecutor() as threads:
        for part in threads.map(lambda entries: to_torch(params, entries), by_path.values()):
            tensors |= {name: torch.from_numpy(value) for name, value in part.items()}
    return tensors


def attention(device: str) -> contextlib.AbstractContextManager:
    """Return a block in which attention is cuDNN's on a GPU, and PyTorch's choice on a CPU."""
    return sdpa_kernel(SDPBackend.CUDNN_ATTENTION) if device == "cuda" else contextlib.nullcontext()


def finished(call: Callable[[], Any], device: str) -> Callable[[], float]:
    """Return a function that runs the call and returns the seconds until it is computed."""

    def run() -> float:
        began = time.perf_counter()
        call()
        if device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began

    return run


def memory_of(call: Callable[[], float], device: str) -> int | None:
    """Return the most bytes of the GPU that are taken during a call, or None on a CPU."""
    if device != "cuda":
        return None
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    call()
    return torch.cuda.max_memory_allocated()


def theirs(case: Case, folder: Path, *, compiled: bool) -> None:
    """Write PyTorch's output to `folder`, then serve timed calls as a worker."""
    net, size = model(case), case.known
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision, plain = getattr(torch, case.dtype), case.dtype == "float32"
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(unet_config(net, size.text[1], size.side))
    unet.load_state_dict(weights(net, case))
    if case.remat != "none":
        unet.enable_gradient_checkpointing()
    batch = {name: torch.from_numpy(value).to(device) for name, value in inputs(case).items()}
    for name in ("x", "target"):
        batch[name] = batch[name].permute(0, 3, 1, 2).contiguous()
    sizes = [[case.pixels, case.pixels, 0, 0, case.pixels, case.pixels]] * size.batch
    added = {
        "text_embeds": torch.zeros(size.batch, 0, device=device),
        "time_ids": torch.tensor(sizes, device=device),
    }
    if case.what == "forward":
        unet = unet.eval() if plain else unet.to(precision).eval()
        batch |= {name: batch[name].to(precision) for name in ("x", "text")}
        added["text_embeds"] = added["text_embeds"].to(precision)
    if device == "cuda":
        torch.backends.cudnn.benchmark = True
        unet = unet.to(memory_format=torch.channels_last)
        batch["x"] = batch["x"].contiguous(memory_format=torch.channels_last)
    run = torch.compile(unet) if compiled else unet

    def forward() -> torch.Tensor:
        with attention(device):
            return run(
                batch["x"],
                batch["index"],
                batch["text"],
                added_cond_kwargs=added,
                return_dict=False,
            )[0]

    def ready(call: Callable[[], float], output: np.ndarray, began: float) -> None:
        np.save(folder / "theirs.npy", output)
        first = time.perf_counter() - began
        measure.serve({"first": first, "memory": memory_of(call, device)}, call)

    began = time.perf_counter()
    if case.what == "forward":
        with torch.inference_mode():
            output = forward().permute(0, 2, 3, 1).float().cpu().numpy()
            ready(finished(forward, device), output, began)
        return
    unet.train()
    parameters = list(unet.parameters())
    ema = [parameter.detach().clone() for parameter in parameters]
    optimizer = torch.optim.AdamW(
        parameters,
        lr=ADAMW["lr"],
        betas=(ADAMW["b1"], ADAMW["b2"]),
        eps=ADAMW["eps"],
        weight_decay=ADAMW["weight_decay"],
        fused=True,
    )

    def train() -> torch.Tensor:
        with contextlib.nullcontext() if plain else torch.autocast(device, precision):
            out = forward()
        loss = torch.nn.functional.mse_loss(out.float(), batch["target"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(ema, parameters, 1 - DECAY)
        return loss

    losses = np.array([train().item() for _ in range(2)])
    ready(finished(train, device), losses, began)
