"""Perceptual hashes: which pictures may be the same one, cut, resized or recompressed.

Whether they are, pixels say.

The hash is `imagehash.phash`: signs of the 8×8 lowest DCT coefficients of 32×32 greys against their
median. A copy flips few bits, and mostly those whose coefficient lies close to the median. So two
records are compared when they agree on all bits of a band of the hash once either may have flipped
one of its weakest bits there (query-directed multi-probe LSH, Lv et al. 2007).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy  # its submodules are imported where they are first used
from PIL import Image

BITS = 64
WEAK = 24  # how many of the bits are told, weakest first
_PROBED = 4  # weakest bits of a band that are flipped, one at a time
_OCCUPANCY = 64  # records that share a band by chance, at most
# a band takes every n-th coefficient in the order of frequency, so that all bands have both stable
# and unstable ones
_ORDER = sorted(range(BITS), key=lambda bit: (bit // 8 + bit % 8, bit))
_SIDE = 64  # of the pictures that are compared, pixels
_MARGIN = 2  # pixels at their edge that are not: what one has and the other lacks
_STEPS = 5
_MOST = 0.08  # of the width: shift and scale that a crop may explain


class Hash(NamedTuple):
    bits: int  # 64 of them; hex(bits) is imagehash's string
    weak: bytes  # the WEAK bits closest to flipping, weakest first, one byte each


def phash(image: Image.Image) -> Hash:
    """The hash of an upright RGB image. `bits` are those of `imagehash.phash`."""
    grey = image.convert("L").resize((32, 32), Image.Resampling.LANCZOS)
    low = scipy.fft.dct(scipy.fft.dct(np.asarray(grey, np.float64), axis=0), axis=1)[:8, :8].ravel()
    margin = low - np.median(low)
    bits = int("".join("1" if m > 0 else "0" for m in margin), 2)
    return Hash(bits, bytes(np.argsort(np.abs(margin), kind="stable")[:WEAK].astype(np.uint8)))


def band_count(records: int) -> int:
    """In how many bands the hash is cut: as many as keep chance meetings few, for recall grows with
    their number.
    """
    return next(
        bands for bands in (4, 3, 2) if bands == 2 or records <= _OCCUPANCY << (BITS // bands)
    )


def band_keys(value: Hash, bands: int) -> Iterator[int]:
    """The buckets a record is put in: for each band its bits, and these with one of the weakest
    flipped.
    """
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
    """(later, earlier) [P, 2] of uint64 [N] at a Hamming distance of at most `radius`: of each
    value the `most` earliest.
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
    """What `same_picture` compares of an image, 0..255."""

    small: np.ndarray  # float32 [64, 64, 3], slightly blurred
    fine: np.ndarray  # float32 [S, S], grey; S is 256, or for small images 128 or 64


def look(image: Image.Image) -> Look:
    """Of an upright RGB image, of which no side needs to be above 512."""
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
    """Whether two images differ by a crop and by what compression does, and by nothing else.

    The crop (a shift and a scale along each side, at most 8 %) is found by least squares
    (Lucas-Kanade). What remains, in levels of 255, must be small over the whole picture (`most`,
    root mean square; less for pictures of low contrast), in each seventh of its sides
    (`most_local`: a small object of another colour is another picture), and of the finer greys in
    each tenth (`most_fine`: so is another text in the same place).
    """
    shift = np.zeros(4)
    for _ in range(_STEPS):
        warped, at = _warped(b.small, shift)
        down, across = np.gradient(warped, 1 / _SIDE, axis=(0, 1))
        slopes = np.stack([across, down, across * at[1][..., None], down * at[0][..., None]], -1)[
            _inner(_SIDE)
        ].reshape(-1, 4)
        normal = slopes.T @ slopes
        # a flat picture has no slopes: the ridge keeps it where it is
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
    """[S, S, C] moved and scaled by (across, down, scale across, scale down), in widths; and where
    its pixels are, -.5...5.
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
    """Without the edge, of which one picture has what the other lacks."""
    margin = side // 24 if side > _SIDE else _MARGIN
    return np.s_[margin:-margin, margin:-margin]
