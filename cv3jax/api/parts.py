"""The parts of a cascade one by one, for any number of rows: a mesh gets as many as it divides."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.api.arguments import as_array, pixels_of, seeds_of, size_of
from cv3jax.cascade.limits import check_trained
from cv3jax.cascade.pipeline import Cascade as Engine
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size, multiple_of
from cv3jax.cascade.stage_network import stage_tiles
from cv3jax.distributed.mesh import batch_ways


def ways(engine: Engine) -> int:
    """Return the number of devices that share the rows of a batch."""
    return 1 if engine.mesh is None else batch_ways(engine.mesh)


def filled(engine: Engine, rows: Any) -> Any:
    """Return `rows`, a list or an array, with the last one repeated until the mesh divides them."""
    more = -len(rows) % ways(engine)
    if isinstance(rows, list):
        return rows + rows[-1:] * more
    if not more:
        return rows
    stack = jnp.concatenate if isinstance(rows, jax.Array) else np.concatenate
    return stack([rows, rows[-1:].repeat(more, 0)])


def keys_of(engine: Engine, seeds: list[int]) -> jax.Array:
    """Return a key for each seed, for as many rows as `filled` returns."""
    rows = engine.put_rows(np.asarray(filled(engine, seeds), np.uint32))
    return jax.vmap(jax.random.key)(rows)


def drawn(
    engine: Engine, size: Any, base: SamplerSettings, relay: SamplerSettings
) -> tuple[Size, ...]:
    """Return the sizes of the base's pictures and after each relay pass.

    Raises ValueError or InputError where the cascade cannot draw so.
    """
    for name in ("base", "t5"):
        require(engine, name)
    sizes = engine.sizes(size_of(size))
    given = {"base": (sizes[0], base)}
    if len(sizes) > 1:
        given["relay"] = (sizes[-1], relay)
    check_trained(engine.description, {name: settings for name, (_, settings) in given.items()})
    check_tiles(engine, given)
    return sizes


def check_tiles(engine: Engine, given: dict[str, tuple[Size, SamplerSettings]]) -> None:
    """Raise InputError where a stage cannot draw its largest pictures in the tiles wanted."""
    for name, (size, settings) in given.items():
        if settings.tile and max(size) > settings.tile:
            stage = engine.description.stages[name]
            stage_tiles(stage, size.divided(stage.factor), settings.tile)


def width(engine: Engine, batch: int, count: int) -> int:
    """Return the rows of a batch that draws `count` pictures, at most `batch` a device."""
    each = ways(engine)
    return min(int(batch), -(-count // each)) * each


def text_of(engine: Engine, prompts: list[str]) -> jax.Array:
    """Return the text features [B, L, C] of prompts."""
    return engine.text(filled(engine, prompts))[: len(prompts)]


def encode(engine: Engine, images: Any, seed: Any) -> jax.Array:
    """Return the latents [B, h, w, z] of pictures, see `Cascade.encode`."""
    pixels = pixels_of(images)
    size = Size(*pixels.shape[1:3])
    if not size.is_multiple(engine.factor):
        raise ValueError(f"images of {size}: give multiples of {engine.factor} pixels per side")
    keys = keys_of(engine, seeds_of(seed, 1, len(pixels)))
    return engine.encode(filled(engine, pixels), engine.noise(keys, size))[: len(pixels)]


def decode(engine: Engine, latents: Any) -> np.ndarray:
    """Return the pictures, uint8 [B, H, W, 3], of scaled latents [B, h, w, z]."""
    channels = engine.latent(engine.factor)[2]
    latents = as_array("latents", latents, f"[B, h, w, {channels}]")
    if latents.ndim != 4 or latents.shape[-1] != channels or 0 in latents.shape:
        raise ValueError(f"latents of the shape {list(latents.shape)}: give [B, h, w, {channels}]")
    latents = latents.astype(np.float32)
    return engine.decode(engine.put_images(filled(engine, latents)))[: len(latents)]


def base(
    engine: Engine,
    text: Any,
    seed: int | Sequence[int],
    size: Size | None,
    settings: SamplerSettings,
) -> jax.Array:
    """Return the base stage's latents [B, h, w, z], see `Cascade.base`."""
    require(engine, "base")
    text = features(engine, text, "base")
    keys = keys_of(engine, seeds_of(seed, len(text), 1))
    trained = engine.description.stages["base"].image_size
    size, step = size or Size(trained, trained), multiple_of(engine.description, "base")
    if not size.is_multiple(step):  # a latent of another size would be drawn
        raise ValueError(f"size {size}: height and width must be multiples of {step}")
    rows, noise = engine.put_rows(filled(engine, text)), engine.noise(keys, size)
    return engine.stage("base", rows, keys, noise, settings=settings)[: len(text)]


def relay(
    engine: Engine, text: Any, images: Any, seed: int | Sequence[int], settings: SamplerSettings
) -> np.ndarray:
    """Return pictures enlarged by one relay pass, uint8 [B, H, W, 3], see `Cascade.relay`."""
    require(engine, "relay")
    pixels = pixels_of(images)
    text = features(engine, text, "relay")
    if len(text) != len(pixels):
        raise ValueError(f"{len(text)} texts for {len(pixels)} images: give one for each")
    keys = keys_of(engine, seeds_of(seed, len(text), 1))
    whole = np.round((pixels + 1.0) * 127.5).astype(np.uint8)
    engine.sizes(None, Size(*whole.shape[1:3]))
    rows = engine.put_rows(filled(engine, text))
    made = engine.enlarge(rows, keys, filled(engine, whole), final=True, settings=settings)
    return made["relay"][: len(text)]


def require(engine: Engine, name: str) -> None:
    """Raise ValueError unless the cascade has the part `name`."""
    if name not in (has := engine.description.parts):
        raise ValueError(f"the cascade has no {name}, only {', '.join(has)}")


def features(engine: Engine, text: Any, name: str) -> jax.Array:
    """Return text features as an array. Raises ValueError on those that a stage cannot read."""
    width = engine.description.stages[name].text_width
    text = jnp.asarray(text) if isinstance(text, np.ndarray) else text
    if (
        not isinstance(text, jax.Array)
        or text.ndim != 3
        or text.shape[-1] != width
        or 0 in text.shape
    ):
        what = f"the shape {list(text.shape)}" if isinstance(text, jax.Array) else type(text)
        raise ValueError(f"text of {what}: give the features [B, L, {width}] that text() returns")
    return text
