"""What callers of the API give: prompts, seeds, pairs of settings and pictures, checked."""

import dataclasses
import math
import secrets
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import MAX_SIDE, Size, as_size
from cv3jax.cascade.upscaling import Enlarging
from cv3jax.sampling.inputs import LAST_SEED, check_prompt
from data_pipeline.images.decode import decode_rgb

MAX_NUM = 10_000  # pictures of a prompt


def prompts_of(prompt: str | Sequence[str]) -> list[str]:
    """Return the prompts of one string or of several. Raises ValueError on anything else."""
    prompt = plain(prompt)
    single = isinstance(prompt, str | bytes | Mapping) or not isinstance(prompt, Iterable)
    prompts = [prompt] if single else list(prompt)
    if not prompts:
        raise ValueError("prompt: give a string, or a list of at least one")
    for text in prompts:
        if not isinstance(text, str):
            raise ValueError(f"prompt {_shown(text)}: give a string, or a list of strings")
        if problem := check_prompt(text):
            raise ValueError(f"prompt {_shown(text)}: {problem}")
    return prompts


def prompt_of(prompt: str) -> str:
    """Return a single prompt. Raises ValueError on anything else."""
    prompt = plain(prompt)
    if not isinstance(prompt, str):
        raise ValueError(f"prompt {_shown(prompt)}: give one string")
    return prompts_of(prompt)[0]


def _shown(value: Any) -> str:
    """Return the beginning of a value for a message."""
    return repr(value[:40]) if isinstance(value, str) else repr(value)[:40]


def seeds_of(seed: int | Sequence[int] | None, prompts: int, num: int) -> list[int]:
    """Return a seed for each of `num` pictures of each prompt, prompt after prompt.

    None draws a random first seed. A number is the first seed of every prompt, and counts up. A
    list has one seed for each prompt, which count up, or one for each picture.

    Raises ValueError on a seed outside 0..LAST_SEED, or on another number of them.
    """
    if not is_whole(num) or not 1 <= num <= MAX_NUM:
        raise ValueError(f"num {num!r}: give a whole number in 1..{MAX_NUM}")
    if seed is None:
        seed = secrets.randbelow(LAST_SEED + 1 - num)
    seed = plain(seed)
    single = isinstance(seed, str | bytes) or not isinstance(seed, Iterable)
    firsts = [seed] * prompts if single else [plain(one) for one in seed]
    if len(firsts) not in (prompts, prompts * num):
        right = " or ".join(str(count) for count in sorted({1, prompts, prompts * num}))
        raise ValueError(
            f"{len(firsts)} seeds for {prompts} prompt{'s' * (prompts > 1)} and {num} picture"
            f"{'s' * (num > 1)} of each: give {right}"
        )
    for one in firsts:
        if not is_whole(one) or not 0 <= one <= LAST_SEED:
            raise ValueError(
                f"seed {one!r}: give a whole number in 0..{LAST_SEED}, or None for a random one"
            )
    if len(firsts) != prompts:
        return [int(one) for one in firsts]
    seeds = [int(first) + i for first in firsts for i in range(num)]
    if max(seeds) > LAST_SEED:
        raise ValueError(
            f"seed {max(firsts)}: {num} pictures count up from it, past {LAST_SEED}; give at most"
            f" {LAST_SEED + 1 - num}"
        )
    return seeds


def plain(value: Any) -> Any:
    """Return the Python value of an array of no dimensions, numpy's or JAX's; others stay."""
    return value.item() if getattr(value, "ndim", None) == 0 else value


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number, of Python's or of numpy's; a bool is none."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number, of Python's or of numpy's; a bool is none."""
    real = isinstance(value, float | np.floating) or is_whole(value)
    return real and math.isfinite(value)


def size_of(size: Any) -> Size | None:
    """Return (height, width) of one side or of two; None is None. Raises ValueError."""
    if size is None or is_whole(size):
        return None if size is None else as_size(int(size))
    if isinstance(size, str) or not isinstance(size, Iterable):
        size = (size,)  # which the next line refuses
    return as_size([int(side) if is_whole(side) else side for side in size])


def settings_of(
    steps: Any, guidance: Any, eta: Any, tile: int | None
) -> tuple[SamplerSettings, SamplerSettings]:
    """Return the settings of (base, relay) from single values or pairs (base, relay).

    Raises ValueError on values that no stage takes.
    """
    pairs = {
        "steps": _pair("steps", steps, 1, 1000, whole=True),
        "guidance": _pair("guidance", guidance, 0.0, 100.0),
        "eta": _pair("eta", eta, 0.0, 1.0),
    }
    if tile is not None and not (is_whole(tile) and (tile == 0 or 16 <= tile <= MAX_SIDE)):
        raise ValueError(
            f"tile {tile!r}: give 16..{MAX_SIDE} pixels, 0 for no tiles, or None for tiles where"
            " the whole does not fit"
        )
    return tuple(
        SamplerSettings(**{name: pair[i] for name, pair in pairs.items()}, tile=int(tile or 0))
        for i in range(2)
    )


def settings_of_one(
    steps: Any, guidance: Any, eta: Any, tile: int | None = None
) -> SamplerSettings:
    """Return the settings of one stage. Raises ValueError on values that no stage takes."""
    for name, value in (("steps", steps), ("guidance", guidance), ("eta", eta)):
        if value is not None and not is_number(plain(value)):
            raise ValueError(f"{name} {value!r}: give one number")
    return settings_of(steps, guidance, eta, tile)[0]


def enlarging_of(
    factor: Any, strength: Any, seed: int, settings: SamplerSettings, colour_fix: str
) -> Enlarging:
    """Return how a picture is enlarged. Raises ValueError on a factor or strength of a wrong type.

    Whether the cascade can do so is not checked.
    """
    if not is_whole(factor):
        raise ValueError(f"factor {factor!r}: give 2, 4, 8 or 16")
    if not is_number(strength):
        raise ValueError(f"strength {strength!r}: give a number above 0 and at most 1")
    settings = dataclasses.replace(settings, strength=float(strength))
    return Enlarging(int(factor), seed, settings, colour_fix)


def _pair(name: str, value: Any, low: float, high: float, *, whole: bool = False) -> tuple:
    if value is None:
        return None, None
    value = plain(value)
    values = tuple(value) if isinstance(value, Sequence | np.ndarray) else (value,)
    kind = is_whole if whole else is_number
    if len(values) not in (1, 2) or not all(
        one is None or (kind(one) and low <= one <= high) for one in values
    ):
        what = "whole number" if whole else "number"
        raise ValueError(
            f"{name} {value!r}: give one {what}, or two as (base, relay), each in {low:g}..{high:g}"
        )
    known = [None if one is None else int(one) if whole else float(one) for one in values]
    return known[0], known[-1]


def listed(name: str, values: Any) -> list:
    """Return a list of values. Raises ValueError on an empty one, and on what is no sequence."""
    if not isinstance(values, Sequence | np.ndarray) or isinstance(values, str) or not len(values):
        raise ValueError(f"{name} {values!r}: give a list of at least one")
    return list(values)


def check_batch(batch: Any) -> None:
    """Raise ValueError unless `batch` is a whole number from 1 on."""
    if not is_whole(batch) or batch < 1:
        raise ValueError(f"batch {batch!r}: give a whole number from 1 on")


def check_callback(callback: Any) -> None:
    """Raise ValueError unless `callback` is None or can be called."""
    if callback is not None and not callable(callback):
        raise ValueError(f"callback {callback!r}: give a function of a Step")


def pixels_of(images: Any) -> np.ndarray:
    """Return pictures as float32 [B, H, W, 3] in [-1, 1].

    They are a PIL image or several of one size, uint8 [H, W, 3] or [B, H, W, 3], or floats in
    [-1, 1] of these shapes. PIL images are read as files are: upright, in sRGB, on white. Raises
    ValueError or InputError on anything else.
    """
    if isinstance(images, Image.Image):
        images = [images]
    if isinstance(images, Sequence) and all(isinstance(one, Image.Image) for one in images):
        images = [np.asarray(decode_rgb(one)) for one in images]
        if not images or len({one.shape for one in images}) > 1:
            raise ValueError("images: give at least one, all of one size")
        images = np.stack(images)
    pixels = as_array("images", images, "PIL images, or [B, H, W, 3]")
    pixels = pixels[None] if pixels.ndim == 3 else pixels
    if pixels.ndim != 4 or pixels.shape[-1] != 3 or 0 in pixels.shape:
        raise ValueError(
            f"images of the shape {list(pixels.shape)}: give PIL images, or [B, H, W, 3]"
        )
    if pixels.dtype == np.uint8:
        return pixels.astype(np.float32) / 127.5 - 1.0
    if pixels.dtype.kind != "f":
        raise ValueError(f"images of {pixels.dtype}: give uint8, or floats in -1..1")
    if not np.all(np.abs(pixels) <= 1.0 + 1e-3):  # also where one is not a number
        raise ValueError(
            f"images in {np.min(pixels):g}..{np.max(pixels):g}: floats are in -1..1; give uint8"
            " for 0..255"
        )
    return pixels.astype(np.float32)


def as_array(name: str, values: Any, right: str) -> np.ndarray:
    """Return an array of what a caller gave as `name`. Raises ValueError, which says `right`."""
    try:
        return np.asarray(values)
    except ValueError as e:  # rows of several lengths
        raise ValueError(f"{name} of several shapes: give {right}") from e
