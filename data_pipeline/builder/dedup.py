"""Removing duplicates across all shards: the best of each set stays, whatever the order of shards.

Only keys and hashes are shuffled.

Exact duplicates have the same digest of decoded pixels. Near duplicates share a band of their
perceptual hash (images/perceptual_hash.py), differ in at most `near_radius` of its bits, and are
confirmed by their pixels, which are read from where they are. A record is dropped when a better one
shows the same picture. So the best of a chain of near duplicates stays, and a picture is never
dropped in favour of a smaller one.
"""

import dataclasses
import functools
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import apache_beam as beam
import numpy as np

from data_pipeline.builder.filters import EXACT, NEAR
from data_pipeline.builder.inputs import read_place
from data_pipeline.builder.measure import Facts
from data_pipeline.images.decode import decode_rgb, open_image
from data_pipeline.images.perceptual_hash import (
    Hash,
    Look,
    band_keys,
    close_pairs,
    look,
    same_picture,
)
from data_pipeline.sources.items import Place

# the most records of one band value that are compared with one another; more are divided into runs
# of similar hashes
BUCKET = 20_000
WINNERS = 8  # the most better records that a bucket lists for one record
_LOOKS = 32  # the most better records whose pixels are compared with those of one record
_KEPT = 128  # images that are kept in memory for comparisons
_RANK, _MOST = 28, 2**47  # bytes of a rank; more than an image has pixels or bytes


class Entry(NamedTuple):
    """A record that passed the filters.

    Entries are ordered by rank, then by place: the smallest one stays.
    """

    rank: bytes  # orders by more pixels, more bytes, then digests of the image and of its text
    unit: int
    ordinal: int
    key: str
    place: Place
    phash: int
    weak: bytes


class EntryCoder(beam.coders.Coder):
    """Encodes entries in about seventy bytes, because the bands shuffle twenty copies of each."""

    _HEAD = struct.Struct(f">{_RANK}sIIQQqBHI")

    def encode(self, entry: Entry) -> bytes:
        """Return the bytes of an entry."""
        key, file = entry.key.encode(), entry.place.file.encode(errors="surrogateescape")
        numbers = (
            entry.phash,
            entry.place.offset,
            entry.place.size,
            len(entry.weak),
            len(key),
            len(file),
        )
        return b"".join(
            (
                self._HEAD.pack(entry.rank, entry.unit, entry.ordinal, *numbers),
                entry.weak,
                key,
                file,
            )
        )

    def decode(self, data: bytes) -> Entry:
        """Return the entry of these bytes."""
        rank, unit, ordinal, phash, offset, size, weak, key, file = self._HEAD.unpack_from(data)
        ends = [self._HEAD.size + n for n in (0, weak, weak + key, weak + key + file)]
        texts = [data[start:end] for start, end in itertools.pairwise(ends)]
        place = Place(texts[2].decode(errors="surrogateescape"), offset, size)
        return Entry(rank, unit, ordinal, texts[1].decode(), place, phash, texts[0])

    def is_deterministic(self) -> bool:
        """Return True: equal entries have equal bytes, so Beam may group by them."""
        return True


beam.coders.registry.register_coder(Entry, EntryCoder)


def make_entry(unit: int, facts: Facts, path: str) -> Entry:
    """Return the entry of an image.

    path: the path of the unit. It is left out of the places of images in it, which are most of
    them; `whole` puts it back.
    """
    size = (_MOST - facts.width * facts.height).to_bytes(6) + (_MOST - facts.bytes).to_bytes(6)
    rank = size + bytes.fromhex(facts.sha256[:16] + facts.text)
    place = dataclasses.replace(facts.place, file="") if facts.place.file == path else facts.place
    return Entry(
        rank, unit, facts.ordinal, facts.key, place, facts.phash, bytes.fromhex(facts.weak)
    )


def whole(entry: Entry, paths: Sequence[str]) -> Place:
    """Return the place of an entry's image; `paths` are those of all units."""
    return (
        entry.place
        if entry.place.file
        else dataclasses.replace(entry.place, file=paths[entry.unit])
    )


def exact(same: tuple[str, Iterable[Entry]], paths: Sequence[str]) -> Iterator[Any]:
    """Yield the best entry with the same pixels, and (tagged "drop") decisions on the others."""
    best = min(same[1])
    yield best
    for entry in same[1]:  # read again: a placeholder picture may occur a million times
        if entry != best:
            yield beam.pvalue.TaggedOutput("drop", _drop(entry, EXACT, best, paths))


def _drop(entry: Entry, reason: str, better: Entry, paths: Sequence[str]) -> tuple[int, dict]:
    twin = dataclasses.asdict(whole(better, paths))
    return entry.unit, {
        "ordinal": entry.ordinal,
        "reason": reason,
        "detail": f"of {better.key}",
        "twin": twin,
    }


def in_bands(entry: Entry, bands: int) -> Iterator[tuple[int, Entry]]:
    """Yield (band value, entry) for each bucket of the entry."""
    for key in band_keys(Hash(entry.phash, entry.weak), bands):
        yield key, entry._replace(weak=b"")


def pairs(
    band: tuple[int, Iterable[Entry]], radius: int
) -> Iterator[tuple[tuple[int, int], tuple[Entry, Entry]]]:
    """Yield ((unit, ordinal) of the worse, (worse, better)) for entries within the radius.

    band: (band value, its entries).
    """
    met = sorted(set(band[1]))  # a record may arrive by two of its keys
    if len(met) < 2:
        return
    stretches = [met]
    if len(met) > BUCKET:
        beam.metrics.Metrics.counter("dedup", "hot buckets").inc()
        met.sort(key=lambda entry: (entry.phash, entry))
        stretches = [sorted(met[i : i + BUCKET]) for i in range(0, len(met), BUCKET)]
    for stretch in stretches:
        for worse, better in close_pairs(
            np.array([entry.phash for entry in stretch], np.uint64), radius, WINNERS
        ):
            yield stretch[worse][1:3], (stretch[worse], stretch[better])


class Confirm(beam.DoFn):
    """(record, its pairs) → the decision to drop it, if a better record shows the same picture."""

    def __init__(self, paths: Sequence[str]):
        """Store the paths of all units."""
        self._paths = paths

    def setup(self) -> None:
        """Create the cache of images in the worker."""
        self._look = functools.lru_cache(_KEPT)(_look)

    def process(
        self, element: tuple[tuple[int, int], Iterable[tuple[Entry, Entry]]]
    ) -> Iterator[tuple[int, dict]]:
        """Yield the decision on the record of `element`, if it is dropped."""
        found = list(element[1])
        worse = found[0][0]
        for better in sorted({better for _, better in found})[:_LOOKS]:
            if same_picture(*(self._look(whole(entry, self._paths)) for entry in (worse, better))):
                yield _drop(worse, NEAR, better, self._paths)
                return


def _look(place: Place) -> Look:
    return look(decode_rgb(open_image(read_place(place)), short_side=512))


def clashes(key: str, entries: Iterable[Entry]) -> Iterator[tuple[int, dict]]:
    """Yield new keys for different pictures with the same key.

    All but the best get a key that contains the beginning of their digest.
    """
    _, *others = sorted(entries)
    given: set[str] = set()
    for entry in others:
        name = f"{key}~{entry.rank[12:20].hex()}"
        while name in given:
            name += "~"
        given.add(name)
        yield entry.unit, {"ordinal": entry.ordinal, "key": name}
