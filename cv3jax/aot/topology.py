"""Describe hardware by name without having it: `v5e:16x16`, `h100:1x8x1`, `rtx4090:1x1x1`.

The results are devices that XLA compiles for. TPUs need libtpu, whose compiler runs on any machine.
GPUs need JAX's CUDA plug-in and a description of the device, which is in launch/topologies
(installed as cv3jax.topologies). Neither needs a device, a driver or the network.
"""

import importlib.util
import os
import re
from pathlib import Path
from typing import NamedTuple

from cv3jax.distributed.chips import CHIPS, Chip
from data_pipeline.io import extras
from data_pipeline.io.errors import InputError, first_line

# what can be rented, in ascending order; a v5p comes also in any multiple of 4 per side, up to
# 16×16×24
SHAPES = {
    "v5e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v6e": ("1x1", "2x2", "2x4", "4x4", "4x8", "8x8", "8x16", "16x16"),
    "v5p": (
        "2x2x1",
        "2x2x2",
        "2x2x4",
        "2x4x4",
        "4x4x4",
        "4x4x8",
        "4x8x8",
        "8x8x8",
        "8x8x16",
        "8x16x16",
        "16x16x16",
        "16x16x24",
    ),
}


LARGEST = (16, 16, 24)
# libtpu asks the metadata server of a TPU machine for its identity, and complains at length where
# there is none
QUIET = {
    # nothing here opens a device, so another process's lock on the devices does not matter
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_WORKER_ID": "0",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


class Topology(NamedTuple):
    """A named topology and the devices to compile for."""

    name: str
    chip: Chip
    # the torus; for GPUs: partitions × hosts per partition × GPUs per host
    shape: tuple[int, ...]
    devices: list


def parse(name: str) -> tuple[str, tuple[int, ...]]:
    """Return the chip and shape that a name stands for: `v5e:16x16` gives ("v5e", (16, 16)).

    Raises InputError on an unknown chip or a shape that does not exist.
    """
    found = re.fullmatch(r"([a-z0-9]+):(\d+(?:x\d+)*)", name)
    kind = found[1] if found else name.partition(":")[0]
    if kind not in CHIPS:
        raise InputError(
            f"--topology {name}: unknown chip {kind!r}; give one of {', '.join(CHIPS)}, such as"
            " v5e:16x16, v5p:8x8x4 or h100:1x8x1"
        )
    shape = tuple(map(int, found[2].split("x"))) if found else ()
    if CHIPS[kind].tpu:
        sizes = "x".join(map(str, sorted(shape)))
        fine = sizes in {
            "x".join(map(str, sorted(map(int, known.split("x"))))) for known in SHAPES[kind]
        }
        cube = (
            kind == "v5p"
            and len(shape) == 3
            and all(a % 4 == 0 and 0 < a <= b for a, b in zip(sorted(shape), LARGEST, strict=False))
        )
        if not (fine or cube):
            more = ", or other multiples of 4 per side" if kind == "v5p" else ""
            raise InputError(
                f"--topology {name}: no {CHIPS[kind].title} has this shape; give one of"
                f" {', '.join(SHAPES[kind])}{more}"
            )
    elif len(shape) != 3 or 0 in shape:
        raise InputError(
            f"--topology {name}: give GPUs as PARTITIONSxHOSTSxGPUS (hosts per partition, GPUs per"
            f" host), such as {kind}:1x8x1 or {kind}:1x1x8"
        )
    return kind, shape


def load(name: str) -> Topology:
    """Return the topology `name` with its devices, to compile for.

    The backend of this process becomes the CPU.

    Raises:
        InputError: there is no such topology, or its compiler is not installed.
    """
    kind, shape = parse(name)
    import jax  # a wrong name is refused without it

    jax.config.update("jax_platforms", "cpu")
    devices = _tpu(name) if CHIPS[kind].tpu else _gpu(kind, shape)
    return Topology(name, CHIPS[kind], shape, devices)


def _tpu(name: str) -> list:
    if importlib.util.find_spec("libtpu") is None:
        raise InputError(
            f"--topology {name}: compiling for a TPU needs libtpu, which is not installed:"
            f" {extras.advice('tpu-compile')}"
        )
    for variable, value in QUIET.items():
        os.environ.setdefault(variable, value)
    from jax.experimental import topologies

    return _described(name, lambda: topologies.get_topology_desc(name, "tpu"))


def _gpu(kind: str, shape: tuple[int, ...]) -> list:
    name = f"{kind}:{'x'.join(map(str, shape))}"
    if not any(importlib.util.find_spec(f"jax_cuda{version}_plugin") for version in (12, 13)):
        raise InputError(
            f"--topology {name}: compiling for a GPU needs JAX's CUDA plug-in, which is not"
            f" installed: {extras.advice('gpu-compile')}"
        )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    from jax.experimental import topologies

    description = (descriptions() / f"{kind}.textproto").read_text()

    def get():
        try:
            return topologies.get_topology_desc(
                platform="cuda",
                topology_name="",
                topology="x".join(map(str, shape)),
                target_config=description,
            )
        # JAX's error for a platform without a plug-in: it is installed, but did not load
        except NotImplementedError as e:
            raise InputError(
                f"--topology {name}: JAX could not load its CUDA plug-in; `make setup-gpu` installs"
                " one that fits"
            ) from e

    return _described(name, get)


def _described(name: str, get) -> list:
    try:
        return list(get().devices)
    except RuntimeError as e:  # JAX's own error is one
        raise InputError(f"--topology {name}: {first_line(e, 300)}") from e


def descriptions() -> Path:
    """Return the directory of the GPU descriptions.

    An installed wheel has it in its package, a checkout in launch/.
    """
    installed = Path(__file__).parents[1] / "topologies"
    return installed if installed.is_dir() else installed.parent.parent / "launch" / "topologies"
