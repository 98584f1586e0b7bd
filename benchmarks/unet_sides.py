"""Run the two sides of benchmarks/unet.py, each as a worker process.

One side is our UNet; the other is diffusers' in PyTorch, with the weights that ours wrote.
"""

import contextlib
import functools
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import measure
import numpy as np
from safetensors.numpy import load_file, save_file

from cv3jax.cascade.parts import model_shapes
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.distributed.backend import tune_cpu
from cv3jax.distributed.mesh import make_mesh
from cv3jax.kernels import flops
from cv3jax.kernels.attention import make_attend
from cv3jax.models.unet import UNet
from cv3jax.optim.learning_rate import learning_rate
from cv3jax.optim.optimizers import OptimizerSettings, make_optimizer
from cv3jax.training.train_step import create_state, make_train_step
from cv3jax.weights.diffusers import unet_config, unet_names
from cv3jax.weights.mapping import to_torch
from cv3jax.weights.names import unet_entries

# The released shape of the network at widths that two cores and 10 GiB take; `full` is the released
# one
SIZES = {
    "small": {"channels": 64, "side": 32, "batch": 2},
    "medium": {"channels": 160, "side": 64, "batch": 1},
    "full": {"channels": 320, "side": 64, "batch": 8},
}
TEXT = (225, 4096)  # positions and width of T5-XXL's features
ADAMW = {"lr": 1e-4, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.01}
CLIP, DECAY = 1.0, 0.999
OURS = "cv3jax"


def model(size: str, dtype: str) -> UNet:
    """Return our UNet of a size."""
    return UNet(channels=SIZES[size]["channels"], dtype=dtype)


def names(net: UNet) -> list:
    """Return the names of a UNet's parameters in diffusers."""
    sizes = {
        key: getattr(net, key)
        for key in ("channels", "channel_mult", "res_blocks", "depth", "mid_depth", "w_dim")
    }
    return unet_names(unet_entries(**sizes), len(net.channel_mult))


def inputs(size: str) -> dict[str, np.ndarray]:
    """Return the batch of both sides, channels last."""
    batch, side, rng = SIZES[size]["batch"], SIZES[size]["side"], np.random.default_rng(0)
    shape = (batch, side, side, UNet.out_channels)
    return {
        "x": rng.standard_normal(shape, np.float32),
        "target": rng.standard_normal(shape, np.float32),
        "index": rng.integers(0, 1000, batch, np.int32),
        "text": rng.standard_normal((batch, *TEXT), np.float32),
    }


def random_params(net: UNet) -> Any:
    """Return random parameters as large as trained ones, none of them zero.

    So every layer affects the output.
    """
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name, noise = path[-1].key, rng.standard_normal(leaf.shape, np.float32)
        if name == "kernel":
            fan_in = math.prod(leaf.shape[-4:-1]) if len(leaf.shape) == 4 else leaf.shape[-2]
            return jnp.asarray(noise / fan_in**0.5)
        return jnp.asarray(0.05 * noise + (name == "scale"))

    return jax.tree.map_with_path(draw, model_shapes(net, TEXT[1]))


def attending(net: UNet, platform: str) -> UNet:
    """Return the model with the attention kernel that a recipe's `auto` chooses."""
    mesh = make_mesh(devices=jax.devices()[:1])
    return net.clone(
        attend=make_attend("auto", platform, mesh, head_dim=net.head_dim, dtype=net.dtype)
    )


def ours(what: str, size: str, dtype: str, folder: Path) -> None:
    """Write weights and our output to `folder`, then serve timed calls as a worker."""
    tune_cpu()
    net, batch = (
        attending(model(size, dtype), jax.devices()[0].platform),
        jax.tree.map(jnp.asarray, inputs(size)),
    )
    params = random_params(net)
    save_file(to_torch(params, names(net)), folder / "weights.safetensors")
    count = sum(leaf.size for leaf in jax.tree.leaves(params))

    def apply(params, batch):
        return net.apply(
            {"params": params},
            batch["x"],
            batch["index"],
            make_cond(
                batch["text"], picture_sizes(len(batch["x"]), *2 * (8 * SIZES[size]["side"],))
            ),
        )

    began = time.perf_counter()
    if what == "forward":
        params = jax.tree.map(lambda x: x.astype(dtype), params)
        run = jax.jit(apply)
        traced = run.trace(params, batch)
        np.save(folder / f"{OURS}.npy", np.asarray(run(params, batch)))
        call = measure.timed(lambda: run(params, batch))
    else:

        def loss(params, frozen, batch, keys):
            return jnp.mean((apply(params, batch) - batch["target"]) ** 2), {}

        rate = learning_rate(ADAMW["lr"], warmup=0, decay="constant", steps=1)
        adamw = {key: ADAMW[key] for key in ("b1", "b2", "eps", "weight_decay")}
        optimizer = make_optimizer(OptimizerSettings("adamw", clip=CLIP, **adamw), rate)
        step = jax.jit(make_train_step(loss, optimizer, decay=DECAY), donate_argnums=0)
        state = jax.jit(functools.partial(create_state, None, optimizer), donate_argnums=1)(
            jax.random.key(0), params
        )
        del params
        traced = step.trace(state, {}, batch)

        def train():
            nonlocal state
            state, metrics = step(state, {}, batch)
            return metrics["loss"]

        losses = [float(train()) for _ in range(2)]
        np.save(folder / f"{OURS}.npy", np.array(losses))
        call = measure.timed(train)
    compile_seconds = time.perf_counter() - began
    measure.serve(
        {
            "parameters": count,
            "first": compile_seconds,
            "flops": flops.count_jaxpr(traced.jaxpr).model,
        },
        call,
    )


def theirs(what: str, size: str, dtype: str, folder: Path, *, compiled: bool) -> None:
    """Write PyTorch's output to `folder`, then serve timed calls as a worker."""
    import torch
    from diffusers import UNet2DConditionModel

    net = model(size, dtype)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    precision = getattr(torch, dtype)
    with torch.device(device):
        unet = UNet2DConditionModel.from_config(unet_config(net, TEXT[1], SIZES[size]["side"]))
    unet.load_state_dict(
        {
            name: torch.from_numpy(value)
            for name, value in load_file(folder / "weights.safetensors").items()
        }
    )
    side = 8 * SIZES[size]["side"]
    batch = {name: torch.from_numpy(value).to(device) for name, value in inputs(size).items()}
    for name in ("x", "target"):
        batch[name] = batch[name].permute(0, 3, 1, 2).contiguous()
    added = {
        "text_embeds": torch.zeros(len(batch["x"]), 0, device=device),
        "time_ids": torch.tensor([[side, side, 0, 0, side, side]] * len(batch["x"]), device=device),
    }
    if what == "forward":
        unet = unet.eval() if dtype == "float32" else unet.to(precision).eval()
        batch |= {name: batch[name].to(precision) for name in ("x", "text")}
        added["text_embeds"] = added["text_embeds"].to(precision)
    if compiled:
        unet = torch.compile(unet)

    def forward():
        return unet(
            batch["x"], batch["index"], batch["text"], added_cond_kwargs=added, return_dict=False
        )[0]

    def finished(call: Callable[[], Any]) -> Callable[[], float]:
        def run() -> float:
            began = time.perf_counter()
            call()
            if device == "cuda":
                torch.cuda.synchronize()
            return time.perf_counter() - began

        return run

    began = time.perf_counter()
    if what == "forward":
        with torch.inference_mode():
            np.save(folder / "theirs.npy", forward().permute(0, 2, 3, 1).float().cpu().numpy())
            first = time.perf_counter() - began
            measure.serve({"first": first}, finished(forward))
        return
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

    def train() -> Any:
        with torch.autocast(device, precision) if dtype != "float32" else contextlib.nullcontext():
            out = forward()
        loss = torch.nn.functional.mse_loss(out.float(), batch["target"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            torch._foreach_lerp_(ema, parameters, 1 - DECAY)
        return loss

    np.save(folder / "theirs.npy", np.array([train().item() for _ in range(2)]))
    measure.serve({"first": time.perf_counter() - began}, finished(train))
