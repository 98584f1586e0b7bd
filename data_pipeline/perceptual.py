"""Perceptual hashes: which pictures may be the same one, cut, resized or recompressed. Whether they are, pixels say.

The hash is `imagehash.phash`: signs of the 8×8 lowest DCT coefficients of 32×32 greys against their median. A copy flips few bits,
and mostly those whose coefficient lies close to the median. So two records are compared when they agree on all bits of a band of
the hash once either may have flipped one of its weakest bits there (query-directed multi-probe LSH, Lv et al. 2007).
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import scipy.fft
import scipy.ndimage
from PIL import Image

BITS = 64
WEAK = 24  # how many of the bits are told, weakest first
_PROBED = 4  # weakest bits of a band that are flipped, one at a time
_OCCUPANCY = 64  # records that share a band by chance, at most
# a band takes every n-th coefficient in the order of frequency, so that all bands have both stable and unstable ones
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
    """In how many bands the hash is cut: as many as keep chance meetings few, for recall grows with their number."""
    return next(bands for bands in (4, 3, 2) if bands == 2 or records <= _OCCUPANCY << (BITS // bands))


def band_keys(value: Hash, bands: int) -> Iterator[int]:
    """The buckets a record is put in: for each band its bits, and these with one of the weakest flipped."""
    width = BITS // bands
    for band in range(bands):
        members = _ORDER[band::bands][:width]
        bits = sum((value.bits >> (BITS - 1 - bit) & 1) << place for place, bit in enumerate(members))
        flips = [members.index(bit) for bit in value.weak if bit in members][:_PROBED]
        for flip in (0, *(1 << place for place in flips)):
            yield band << width | (bits ^ flip)


def close_pairs(values: np.ndarray, radius: int) -> np.ndarray:
    """All (later, earlier) [P, 2] of uint64 [N] at a Hamming distance of at most `radius`, in blocks that fit into memory."""
    found = [np.zeros((0, 2), np.int64)]
    block = max(1, 2**22 // max(1, len(values)))
    for start in range(0, len(values), block):
        distance = np.bitwise_count(values[start : start + block, None] ^ values[None, : start + block])
        later, earlier = np.nonzero(distance <= radius)
        later += start
        found.append(np.stack([later, earlier], 1)[later > earlier])
    return np.concatenate(found)


def thumbnail(image: Image.Image) -> np.ndarray:
    """What `same_picture` compares: float32 [64, 64, 3], 0..255, slightly blurred."""
    small = image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS, reducing_gap=3.0)
    return scipy.ndimage.gaussian_filter(np.asarray(small, np.float32), (1, 1, 0))


def same_picture(a: np.ndarray, b: np.ndarray, *, most: float = 6.0, most_local: float = 20.0) -> bool:
    """Whether two thumbnails differ by a crop and by what compression does, and by nothing else.

    The crop (a shift and a scale along each side, at most 8 %) is found by least squares (Lucas-Kanade). What remains must be small
    over the whole picture (`most`: root mean square, of 255; less for pictures of low contrast) and in each seventh of its sides
    (`most_local`): a small object of another colour is another picture.
    """
    grid = (np.arange(_SIDE) + 0.5) / _SIDE - 0.5
    y, x = np.meshgrid(grid, grid, indexing="ij")
    inner = np.s_[_MARGIN:-_MARGIN, _MARGIN:-_MARGIN]
    shift_x = shift_y = scale_x = scale_y = 0.0
    for step in range(_STEPS + 1):
        at = (np.stack([y * (1 + scale_y) + shift_y, x * (1 + scale_x) + shift_x]) + 0.5) * _SIDE - 0.5
        warped = np.stack([scipy.ndimage.map_coordinates(b[..., c], at, order=1, mode="nearest") for c in range(3)], -1)
        rest = (a - warped)[inner]
        if step == _STEPS:
            break
        down, across = np.gradient(warped, 1 / _SIDE, axis=(0, 1))
        slopes = np.stack([across, down, across * x[..., None], down * y[..., None]], -1)[inner].reshape(-1, 4)
        normal = slopes.T @ slopes
        # a flat picture has no slopes: the ridge keeps it where it is
        normal += np.eye(4) * (1e-3 * np.trace(normal) / 4 + 1e-6)
        change = np.linalg.solve(normal, slopes.T @ rest.reshape(-1))
        shift_x, shift_y, scale_x, scale_y = np.clip(np.array([shift_x, shift_y, scale_x, scale_y]) + change, -_MOST, _MOST)
    energy = (rest**2).mean(-1)
    contrast = float(a.std((0, 1)).mean())
    local = scipy.ndimage.uniform_filter(energy, _SIDE // 7).max()
    return bool(energy.mean() <= min(most, 1 + contrast / 5) ** 2 and local <= most_local**2)
