"""Run our side of benchmarks/unet.py, and say what both sides have in common.

The other side is diffusers' in PyTorch (`unet_torch.py`). Both are worker processes. Both fill the
network with the same random weights.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import measure
import numpy as np
from random_weights import on_device

from cv3jax.aot.run import memory_of
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

ADAMW = {"lr": 1e-4, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 0.01}
CLIP, DECAY = 1.0, 0.999
OURS = "cv3jax"
REMATS = ("none", "block")  # what diffusers has too


class Size(NamedTuple):
    """A network and its batch: latents of `side`², text features of `text` (positions, width)."""

    channels: int
    side: int
    batch: int
    text: tuple[int, int] = (225, 4096)  # T5-XXL's
    fields: tuple[tuple[str, Any], ...] = ()  # of the UNet, where they are not the released ones


# The released shape of the network at widths that two cores and 10 GiB take; `full` is the released
# one, and `tiny` one for tests
SIZES = {
    "tiny": Size(
        channels=32,
        side=8,
        batch=2,
        text=(7, 32),
        fields=(
            ("channel_mult", (1, 2)),
            ("res_blocks", 1),
            ("depth", (0, 1)),
            ("mid_depth", 1),
            ("head_dim", 32),
            ("groups", 8),
        ),
    ),
    "small": Size(channels=64, side=32, batch=2),
    "medium": Size(channels=160, side=64, batch=1),
    "full": Size(channels=320, side=64, batch=8),
}


@dataclasses.dataclass(frozen=True)
class Case:
    """What is compared: a forward pass or a train step of a size, in one precision.

    what: "forward" or "train". batch: None for the size's own. remat: of REMATS.
    """

    what: str
    size: str
    dtype: str
    batch: int | None = None
    remat: str = "none"

    @property
    def known(self) -> Size:
        """Return the size, with the batch of this case."""
        size = SIZES[self.size]
        return size if self.batch is None else size._replace(batch=self.batch)

    @property
    def pixels(self) -> int:
        """Return the side of the pictures in pixels, which the network is told."""
        return 8 * self.known.side


def model(case: Case) -> UNet:
    """Return our UNet of a case."""
    size = case.known
    return UNet(channels=size.channels, dtype=case.dtype, remat=case.remat, **dict(size.fields))


def shapes_of(net: UNet, case: Case) -> Any:
    """Return the float32 parameters as ShapeDtypeStructs."""
    return model_shapes(net, case.known.text[1])


def inputs(case: Case) -> dict[str, np.ndarray]:
    """Return the batch of both sides, channels last."""
    size, rng = case.known, np.random.default_rng(0)
    shape = (size.batch, size.side, size.side, UNet.out_channels)
    return {
        "x": rng.standard_normal(shape, np.float32),
        "target": rng.standard_normal(shape, np.float32),
        "index": rng.integers(0, 1000, size.batch, np.int32),
        "text": rng.standard_normal((size.batch, *size.text), np.float32),
    }


def attending(net: UNet, platform: str) -> UNet:
    """Return the model with the attention kernel that a recipe's `auto` chooses."""
    mesh = make_mesh(devices=jax.devices()[:1])
    return net.clone(
        attend=make_attend("auto", platform, mesh, head_dim=net.head_dim, dtype=net.dtype)
    )


def forward_of(net: UNet, case: Case) -> Callable:
    """Return (params, batch) → the prediction [B, H, W, z], float32."""

    def apply(params, batch):
        sizes = picture_sizes(len(batch["x"]), case.pixels, case.pixels)
        cond = make_cond(batch["text"], sizes)
        return net.apply({"params": params}, batch["x"], batch["index"], cond)

    return apply


def training_of(net: UNet, case: Case) -> tuple[Callable, Callable]:
    """Return (params → the train state, the train step (state, frozen, batch)); neither is jitted.

    The step has the mean squared error, clipping, AdamW and an EMA.
    """
    apply = forward_of(net, case)

    def loss(params, frozen, batch, keys):
        return jnp.mean((apply(params, batch) - batch["target"]) ** 2), {}

    rate = learning_rate(ADAMW["lr"], warmup=0, decay="constant", steps=1)
    adamw = {key: ADAMW[key] for key in ("b1", "b2", "eps", "weight_decay")}
    optimizer = make_optimizer(OptimizerSettings("adamw", clip=CLIP, **adamw), rate)
    begin = functools.partial(create_state, None, optimizer, jax.random.key(0))
    return begin, make_train_step(loss, optimizer, decay=DECAY)


def ours(case: Case, folder: Path) -> None:
    """Write our output to `folder`, then serve timed calls as a worker."""
    tune_cpu()
    net = attending(model(case), jax.devices()[0].platform)
    batch, shapes = jax.tree.map(jnp.asarray, inputs(case)), shapes_of(net, case)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    if case.what == "forward":
        typed = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, case.dtype), shapes)
        params = on_device(typed)
        began = time.perf_counter()
        traced = jax.jit(forward_of(net, case)).trace(params, batch)
        compiled = traced.lower().compile()

        def call():
            return compiled(params, batch)

        first = np.asarray(call())
    else:
        begin, step = training_of(net, case)
        state = jax.jit(begin, donate_argnums=0)(on_device(shapes))
        began = time.perf_counter()
        traced = jax.jit(step, donate_argnums=0).trace(state, {}, batch)
        compiled = traced.lower().compile()

        def call():
            nonlocal state
            state, metrics = compiled(state, {}, batch)
            return metrics["loss"]

        first = np.array([float(call()) for _ in range(2)])
    np.save(folder / f"{OURS}.npy", first)
    measure.serve(
        {
            "parameters": count,
            "first": time.perf_counter() - began,
            "flops": flops.count_jaxpr(traced.jaxpr).model,
            "memory": memory_of(compiled)["peak_bytes_per_chip"],
        },
        measure.timed(call),
    )
