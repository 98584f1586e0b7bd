"""What is odd about a small set of pictures: duplicates, tiny ones, and ones with transparency.

Nothing is left out because of it. It is counted, and the first few are named.
"""

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from data_pipeline.images.decode import decode_layers, decode_rgb, open_image
from data_pipeline.images.perceptual_hash import Look, close_pairs, look, same_picture
from data_pipeline.io.terminal import visible

NEAR_BITS = 12  # of 64, as `cv3jax data build` has it
NAMED = 3  # pictures that a line names
_EARLIER = 8  # earlier pictures with whose pixels those of one are compared
_KEPT = 256  # pictures that are kept in memory for that
_COMPARED = 50_000  # the first so many are compared with one another; their pairs take seconds


class Facts(NamedTuple):
    """What is known of a picture without its pixels."""

    key: str
    height: int
    width: int
    sha256: str
    phash: int
    transparent: bool


def is_transparent(data: bytes) -> bool:
    """Return whether a picture has a pixel that is not opaque. Raises InputError on damage."""
    image = open_image(data)
    if not image.has_transparency_data:
        return False
    alpha = decode_layers(image)[1]
    return alpha is not None and alpha.getextrema()[0] < 255


def oddities(
    facts: Sequence[Facts],
    read: Callable[[int], bytes],
    image_size: int,
    min_side: int,
    masked: bool = False,
) -> list[str]:
    """Return a line for each kind of odd picture.

    read: number of a picture → the bytes of its file. image_size: side in pixels of what training
    sees. min_side: pictures with a shorter side are left out by the loader, which says so itself.
    masked: whether what is transparent is left out of the loss.
    """
    exact, near = duplicates(facts, read)
    lines = [
        _line(facts, "the same file as an earlier one", _named(facts, exact)),
        _line(facts, "nearly the same picture as an earlier one", _named(facts, near)),
    ]
    shorter = {i: min(one.height, one.width) for i, one in enumerate(facts)}
    small = [i for i, side in shorter.items() if min_side <= side < image_size]
    said = f"smaller than {image_size} pixels on the shorter side, and are enlarged"
    lines.append(_line(facts, said, _sized(facts, small)))
    clear = [one.key for one in facts if one.transparent]
    said = "are not learned" if masked else "training sees on white"
    lines.append(_line(facts, f"transparent in parts, which {said}", clear))
    return [line for line in lines if line]


def duplicates(
    facts: Sequence[Facts], read: Callable[[int], bytes]
) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
    """Return the pairs (later, earlier) of the same file, and those of nearly the same picture.

    A picture is in at most one pair. Near ones have similar perceptual hashes, and their pixels
    differ by a crop and by compression alone, as `cv3jax data build` decides it.
    """
    first: dict[str, int] = {}
    exact = [
        (i, first[one.sha256]) for i, one in enumerate(facts) if first.setdefault(one.sha256, i) < i
    ]
    others = sorted(first.values())[:_COMPARED]  # one of each file

    @functools.lru_cache(_KEPT)
    def seen(i: int) -> Look:
        return look(decode_rgb(open_image(read(i)), short_side=512))

    hashes = np.array([facts[i].phash for i in others], np.uint64)
    near: dict[int, int] = {}
    for later, earlier in close_pairs(hashes, NEAR_BITS, _EARLIER).tolist():
        a, b = others[later], others[earlier]
        if a not in near and same_picture(seen(a), seen(b)):
            near[a] = b
    return exact, sorted(near.items())


def _named(facts: Sequence[Facts], pairs: list[tuple[int, int]]) -> list[str]:
    return [f"{facts[later].key} and {facts[earlier].key}" for later, earlier in pairs]


def _sized(facts: Sequence[Facts], some: list[int]) -> list[str]:
    return [f"{facts[i].key} is {facts[i].width}×{facts[i].height}" for i in some]


def _line(facts: Sequence[Facts], said: str, names: list[str]) -> str:
    """Return what is said of the pictures with these names, or "" where there are none."""
    if not names:
        return ""
    more = ", …" if len(names) > NAMED else ""
    shown = ", ".join(visible(name, 300) for name in names[:NAMED])
    return f"{len(names):,} of {len(facts):,} pictures are {said}: {shown}{more}"
