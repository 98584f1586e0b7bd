"""Networks of PyTorch from untrusted files: tensors alone, of the shapes that a metric needs.

A module is made without memory, and takes the tensors of the file as its parameters.
"""

import itertools
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.weights.files import open_tensors
from cv3jax.weights.mapping import check_tensors
from data_pipeline.io import extras
from data_pipeline.io.errors import InputError

Tensors = dict[str, Any]  # name → torch.Tensor, float32


def libraries(metric: str, *modules: str) -> Any:
    """Return the imported torch, after a check that `modules` are installed too.

    The libraries of Hugging Face are told that there is no network, and GPUs not to round the
    factors of a float32 convolution to TF32, as PyTorch has them do by itself.

    Raises InputError, which names the extra, where one is missing.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")
    extras.check(f"the metric {metric}", "torch", *modules, extra="eval")
    torch = extras.load("torch", f"the metric {metric}")
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return torch


def device(torch: Any) -> str:
    """Return the device that the networks run on: the GPU where PyTorch sees one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def read_tensors(path: Path, ignored: tuple[str, ...] = ()) -> Tensors:
    """Return the tensors of a .safetensors or .pt file as float32, on the CPU.

    Names that end in one of `ignored` are left out.

    Raises:
        InputError: the file is damaged or carries code, or a tensor has other values than finite
            numbers.
    """
    torch = extras.load("torch", f"reading {path}")
    leaves, _ = open_tensors(path, "--weights")
    found = {}
    for name, leaf in leaves.items():
        if name.endswith(ignored):
            continue
        if leaf.dtype.kind == "V" and leaf.dtype.itemsize != 2:  # bfloat16 is of that kind too
            raise InputError(f"{path}: {name} is not a tensor of plain numbers; get the file again")
        value = np.array(leaf.read(), np.float32)
        if not np.isfinite(value).all():
            raise InputError(
                f"{path}: {name} has values that are NaN or infinite; get the file again"
            )
        found[name] = torch.from_numpy(value)
    return found


def build(make: Callable[[], Any], tensors: Mapping[str, Any], where: str) -> Any:
    """Return the module that `make` makes with `tensors` as its parameters, for inference.

    Raises:
        InputError: names or shapes differ. `where` begins the message.
    """
    torch = extras.load("torch", where)
    with torch.device("meta"):
        module = make()
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    check_tensors(shapes, {n: tuple(v.shape) for n, v in module.state_dict().items()}, where)
    module.load_state_dict(dict(tensors), assign=True)
    for part in module.modules():
        for name, buffer in list(part.named_buffers(recurse=False)):
            if buffer.is_meta:  # not in the file: the libraries compute them
                if name != "position_ids":
                    raise AssertionError(f"{where}: the buffer {name} has no known value")
                values = torch.arange(buffer.shape[-1]).expand(buffer.shape)
                part.register_buffer(name, values, persistent=False)
    return module.eval().requires_grad_(False).to(device(torch))


def head(widths: tuple[int, ...]) -> Any:
    """Return the linear head of both the aesthetic predictor and ImageReward.

    It is `Linear` after `Linear` with dropout between the first ones, which has no effect here but
    sets the names `layers.0`, `layers.2`, `layers.4`, `layers.6` and `layers.7`. widths: of the
    input and of the five outputs.
    """
    torch = extras.load("torch", "a metric")
    nn = torch.nn
    one, two, three, four, five = (nn.Linear(a, b) for a, b in itertools.pairwise(widths))
    parts = (one, nn.Dropout(0.2), two, nn.Dropout(0.2), three, nn.Dropout(0.1), four, five)
    return nn.ModuleDict({"layers": nn.Sequential(*parts)})
