"""Perceptual hashes, which find pictures that may be copies: cropped, resized or recompressed.

Whether two pictures with similar hashes are copies is then decided by their pixels.

The hash is `imagehash.phash`: the signs of the 8×8 lowest DCT coefficients of 32×32 greys, relative
to their median. A copy flips few bits, mostly those of coefficients that are close to the median.
So two records are compared when they agree on all bits of a band of the hash, after each may have
flipped one of its weakest bits there (query-directed multi-probe LSH, Lv et al. 2007).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy  # imports its submodules when they are first used
from PIL import Image

BITS = 64
WEAK = 24  # how many of the weakest bits are recorded
_PROBED = 4  # weakest bits of a band that are flipped, one at a time
_OCCUPANCY = 64  # the most records that may share a band by chance
# a band takes every n-th coefficient in the order of frequency, so that every band has both stable
# and unstable ones
_ORDER = sorted(range(BITS), key=lambda bit: (bit // 8 + bit % 8, bit))
_SIDE = 64  # side of the pictures that are compared, pixels
_MARGIN = 2  # pixels at their edges that are not compared, because a crop may lack them
_STEPS = 5
_MOST = 0.08  # the largest shift and scale that a crop may explain, in widths


class Hash(NamedTuple):
    """A perceptual hash, and which of its bits are the most likely to flip."""

    bits: int  # 64 bits; hex(bits) is imagehash's string
    weak: bytes  # the WEAK bits closest to flipping, weakest first, one byte each


def phash(image: Image.Image) -> Hash:
    """Return the hash of an upright RGB image; its `bits` are those of `imagehash.phash`."""
    grey = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    low = scipy.fft.dct(scipy.fft.dct(np.asarray(grey, np.float64), axis=0), axis=1)[:8, :8].ravel()
    margin = low - np.median(low)
    bits = int("".join("1" if m > 0 else "0" for m in margin), 2)
    return Hash(bits, bytes(np.argsort(np.abs(margin), kind="stable")[:WEAK].astype(np.uint8)))


def band_count(records: int) -> int:
    """Return into how many bands the hash is divided.

    More bands find more copies. The count is the largest that keeps accidental matches few.
    """
    return next(
        bands for bands in (4, 3, 2) if bands == 2 or records <= _OCCUPANCY << (BITS // bands)
    )


def band_keys(value: Hash, bands: int) -> Iterator[int]:
    """Yield the buckets of a record: each band's bits, and these with one weak bit flipped."""
    width = BITS // bands
    for band in range(bands):
        members = _ORDER[band::bands][:width]
        bits = sum(
            (value.bits >> (BITS - 1 - bit) & 1) << place for place, bit in enumerate(members)
        )
        flips = [members.index(bit) for bit in value.weak if bit in members][:_PROBED]
        for flip in (0, *(1 << place for place in flips)):
            yield band << width | (bits ^ flip)


def close_pairs(values: np.ndarray, radius: int, most: int) -> np.ndarray:
    """Return the pairs (later, earlier) of hashes with at most `radius` differing bits.

    values: uint64 [N]. Result: [P, 2]; each value is paired with at most the `most` earliest.
    """
    found = [np.zeros((0, 2), np.int64)]
    block = max(1, 2**22 // max(1, len(values)))
    for start in range(0, len(values), block):
        distance = np.bitwise_count(
            values[start : start + block, None] ^ values[None, : start + block]
        )
        close = np.tril(distance <= radius, start - 1)
        close &= np.cumsum(close, axis=1, dtype=np.int32) <= most
        later, earlier = np.nonzero(close)
        found.append(np.stack([later + start, earlier], 1))
    return np.concatenate(found)


class Look(NamedTuple):
    """The pixels of an image that `same_picture` compares, in 0..255."""

    small: np.ndarray  # float32 [64, 64, 3], slightly blurred
    fine: np.ndarray  # float32 [S, S], grey; S is 256, or 128 or 64 for small images


def look(image: Image.Image) -> Look:
    """Return the Look of an upright RGB image, whose sides need not be longer than 512."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    side = next(s for s in (256, 128, _SIDE) if s <= min(image.size) or s == _SIDE)
    fine = image.convert("L").resize((side, side), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return Look(
        scipy.ndimage.gaussian_filter(np.asarray(small, np.float32), (1, 1, 0)),
        np.asarray(fine, np.float32),
    )


def same_picture(
    a: Look, b: Look, *, most: float = 6.0, most_local: float = 20.0, most_fine: float = 8.0
) -> bool:
    """Return whether two images differ only by a crop and by compression.

    The crop (a shift and a scale along each side, at most 8 %) is estimated by least squares
    (Lucas-Kanade). The remaining difference, in levels of 255, must be small: over the whole
    picture (`most`, root mean square; less for pictures of low contrast); over every window of a
    seventh of the side (`most_local`, since a small object of another colour makes another
    picture); and in the finer greys over every window of a tenth (`most_fine`, since another text
    in the same place does too).
    """
    shift = np.zeros(4)
    for _ in range(_STEPS):
        warped, at = _warped(b.small, shift)
        down, across = np.gradient(warped, 1 / _SIDE, axis=(0, 1))
        slopes = np.stack([across, down, across * at[1][..., None], down * at[0][..., None]], -1)[
            _inner(_SIDE)
        ].reshape(-1, 4)
        normal = slopes.T @ slopes
        # a flat picture has no gradients: the ridge keeps the shift where it is
        normal += np.eye(4) * (1e-3 * np.trace(normal) / 4 + 1e-6)
        shift = np.clip(
            shift
            + np.linalg.solve(normal, slopes.T @ (a.small - warped)[_inner(_SIDE)].reshape(-1)),
            -_MOST,
            _MOST,
        )
    energy = ((a.small - _warped(b.small, shift)[0])[_inner(_SIDE)] ** 2).mean(-1)
    contrast = float(a.small.std((0, 1)).mean())
    if (
        energy.mean() > min(most, 1 + contrast / 5) ** 2
        or scipy.ndimage.uniform_filter(energy, _SIDE // 7).max() > most_local**2
    ):
        return False
    side = min(len(a.fine), len(b.fine))
    both = (
        each.reshape(side, len(each) // side, side, -1).mean((1, 3)) for each in (a.fine, b.fine)
    )
    ours, theirs = (scipy.ndimage.gaussian_filter(each, 1.5) for each in both)
    rest = (ours - _warped(theirs[..., None], shift)[0][..., 0])[_inner(side)]
    return bool(scipy.ndimage.uniform_filter(rest**2, side // 10).max() <= most_fine**2)


def _warped(picture: np.ndarray, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return a picture [S, S, C] moved and scaled by `shift`, and the places of its pixels.

    shift: (across, down, scale across, scale down), in widths. The places are [2, S, S], -0.5..0.5.
    """
    side = len(picture)
    grid = (np.arange(side) + 0.5) / side - 0.5
    y, x = np.meshgrid(grid, grid, indexing="ij")
    at = (
        np.stack([y * (1 + shift[3]) + shift[1], x * (1 + shift[2]) + shift[0]]) + 0.5
    ) * side - 0.5
    channels = [
        scipy.ndimage.map_coordinates(picture[..., c], at, order=1, mode="nearest")
        for c in range(picture.shape[-1])
    ]
    return np.stack(channels, -1), np.stack([y, x])


def _inner(side: int) -> tuple[slice, slice]:
    """Return the index of a picture without its edges, which a crop may lack."""
    margin = side // 24 if side > _SIDE else _MARGIN
    return np.s_[margin:-margin, margin:-margin]
