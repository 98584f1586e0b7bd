"""Random adapters of the small UNet of `random_cascades`, with all that a file may have."""

import dataclasses
from collections.abc import Iterable
from typing import Any

import ml_dtypes
import numpy as np
from random_cascades import description

from cv3jax.adapters.adapter import Adapter, Layer
from cv3jax.adapters.naming import SIZES, Sizes
from cv3jax.adapters.trees import shapes_of
from cv3jax.checkpoints.description import StageDescription

STAGE = description().stages["base"]
SIZES_OF = Sizes.of(STAGE)
SHAPES = shapes_of(STAGE)
BLOCK = "middle_block.1.transformer_blocks.0"
# attention, feed-forward, projections, convolutions, a skip, embeddings of time and size, samplers
SOME = (
    f"{BLOCK}.attn1.to_q",
    f"{BLOCK}.attn2.to_k",
    f"{BLOCK}.attn2.to_out.0",
    f"{BLOCK}.ff.net.0.proj",
    f"{BLOCK}.ff.net.2",
    "middle_block.1.proj_in",
    "output_blocks.0.1.proj_out",
    "input_blocks.0.0",
    "input_blocks.1.0.in_layers.2",
    "input_blocks.3.0.emb_layers.1",
    "input_blocks.3.0.skip_connection",
    "input_blocks.2.0.op",
    "output_blocks.1.2.conv",
    "time_embed.0",
    "label_emb.0.2",
    "out.2",
)


def layer(
    shape: tuple[int, ...], rank: int, alpha: float, rng: np.random.Generator, **more: Any
) -> Layer:
    """Return a random layer. more: dtype, and dora."""
    dtype = more.get("dtype", np.float32)
    ones = (1,) * (len(shape) - 2)
    down = rng.normal(0, 0.3, (rank, *shape[1:])).astype(dtype)
    up = rng.normal(0, 0.3, (shape[0], rank, *ones)).astype(dtype)
    magnitude = rng.uniform(0.5, 2, shape[0]).astype(dtype) if more.get("dora") else None
    return Layer(down, up, alpha, magnitude)


def adapter(
    names: Iterable[str] = SOME, *, seed: int = 0, dora: bool = False, **more: Any
) -> Adapter:
    """Return an adapter of mixed ranks and alphas. more: dtype, rslora, metadata."""
    rng = np.random.default_rng(seed)
    dtype = more.pop("dtype", np.float32)
    layers = {
        name: layer(SHAPES[name], 1 + i % 4, (4.0, 1.0, 0.3)[i % 3], rng, dtype=dtype, dora=dora)
        for i, name in enumerate(names)
    }
    kept = {"ss_comment": "drawn at random", "modelspec.title": "é", SIZES: SIZES_OF.to_json()}
    metadata = kept | more.pop("metadata", {})
    return Adapter(layers, more.pop("stage", "base"), metadata=metadata, **more)


def of_stage(
    stage: StageDescription, *, every: int = 5, size: float = 0.05, **more: Any
) -> Adapter:
    """Return an adapter of every so-many-th module of a stage, of ranks 2 to 4.

    size: of the entries. more: dora, dtype, seed.
    """
    rng, dora = np.random.default_rng(more.pop("seed", 0)), more.pop("dora", False)
    shapes, layers = shapes_of(stage), {}
    for i, name in enumerate(list(shapes)[::every]):
        one = layer(shapes[name], 2 + i % 3, 2.0, rng, dora=dora, **more)
        down, up = ((array * (size / 0.3)).astype(array.dtype) for array in (one.down, one.up))
        layers[name] = dataclasses.replace(one, down=down, up=up)
    return Adapter(layers, stage.kind, metadata={SIZES: Sizes.of(stage).to_json()})


def with_alpha(one: Adapter, alpha: float) -> Adapter:
    """Return an adapter all of whose layers have one alpha."""
    layers = {k: dataclasses.replace(v, alpha=alpha) for k, v in one.layers.items()}
    return dataclasses.replace(one, layers=layers)


def same(one: Adapter, other: Adapter) -> list[str]:
    """Return in what two adapters differ; types, shapes and bits of arrays count."""
    found = [
        name
        for name in ("stage", "rslora", "metadata", "naming")
        if getattr(one, name) != getattr(other, name)
    ]
    if one.layers.keys() != other.layers.keys():
        return [*found, "names of layers"]
    for name, a in one.layers.items():
        b = other.layers[name]
        if a.alpha != b.alpha:
            found.append(f"alpha of {name}: {a.alpha!r}, {b.alpha!r}")
        for what in ("down", "up", "magnitude"):
            x, y = getattr(a, what), getattr(b, what)
            if (x is None) != (y is None):
                found.append(f"{what} of {name} is missing")
            elif x is not None and (
                (x.dtype, x.shape, x.tobytes()) != (y.dtype, y.shape, y.tobytes())
            ):
                found.append(f"{what} of {name}")
    return found


HALF = (np.float16, ml_dtypes.bfloat16)
