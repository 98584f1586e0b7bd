"""Make one shard of a feature cache.

Records are read and decoded in advance, encoded batch by batch, and written while the next batch is
computed.
"""

import collections
import concurrent.futures
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from cv3jax.precompute.encoders import Encoders
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import replacing
from data_pipeline.records.array_records import ShardWriter
from data_pipeline.records.feature_cache import FEATURES, pack
from data_pipeline.records.records import RecordSource, captions

KEPT = ("key", "sha256", "caption", "recaption")


class Item(NamedTuple):
    """A record to encode."""

    record: dict[str, str]  # its fields KEPT
    pixels: np.ndarray | None  # uint8 [side, side, 3], where there are latents to make
    sizes: np.ndarray  # int32 [6]
    # False: its image or caption cannot be read, and the feature cache has no arrays for it
    whole: bool
    several: bool = False  # the source has more captions than the one with features


class Hooks(NamedTuple):
    """What is called while a shard is made."""

    # for a record that cannot be read, from other threads; may raise
    damaged: Callable[[str], None]
    advance: Callable[[int], None]  # for so many written records
    stop: Callable[[], int | None]  # after each batch; a signal discards the shard
    # for so many records of a shard that have captions without features
    several: Callable[[int], None]


class _StoppedError(Exception):
    """Leaves the blocks of a shard that is discarded."""


def encode_shard(
    records: RecordSource,
    rows: range,
    encoders: Encoders,
    place: Path,
    path: Path,
    threads: int,
    hooks: Hooks,
) -> int:
    """Write the shard of the records `rows` to `path`, by way of the directory `place`.

    Returns how many records it wrote.

    Raises:
        InputError: the encoders produce infinities for a record.
        OSError: the disk is full, or fails.
    """
    before, several = None, 0
    try:
        with (
            replacing(path, place / path.name, durable=True) as temporary,
            ShardWriter(temporary, FEATURES) as writer,
        ):
            for some in batches(records, rows, encoders, threads, hooks.damaged):
                # the devices compute it while the batch before it is written
                begun = (some, start(some, encoders))
                several += sum(item.several for item in some)
                if before:
                    hooks.advance(write(writer, *before, name=records.name))
                before = begun
                if hooks.stop():
                    raise _StoppedError
            if before:
                hooks.advance(write(writer, *before, name=records.name))
    except _StoppedError:
        return 0
    hooks.several(several)
    return len(rows)


def batches(
    records: RecordSource,
    rows: range,
    encoders: Encoders,
    threads: int,
    damaged: Callable[[str], None],
) -> Iterator[list[Item]]:
    """Yield lists of `encoders.width` records; the last list has the rest.

    Threads read and decode them in advance.
    """
    nothing = np.zeros(6, np.int32)

    def item(i: int) -> Item:
        pixels, sizes, name = None, nothing, f"record {i}"
        try:
            record = records[i]
            name = f"record {record['key']!r}"
            several = bool(encoders.text) and len(captions(record)) > 1
            if encoders.latents:
                pixels, sizes = encoders.view(record["image"])
        except InputError as e:
            damaged(f"{name} of {records.name}: {e}")
            black = np.zeros((encoders.side, encoders.side, 3), np.uint8)
            return Item(
                dict.fromkeys(KEPT, ""), black if encoders.latents else None, nothing, whole=False
            )
        kept = {name: record[name] for name in KEPT}
        return Item(kept, pixels, sizes, whole=True, several=several)

    width, read = encoders.width, collections.deque()
    pool = concurrent.futures.ThreadPoolExecutor(max(threads, 1))
    try:
        for begin in range(0, len(rows), width):
            while len(read) < min(3 * width, len(rows) - begin):  # this batch, and two in advance
                read.append(pool.submit(item, rows[begin + len(read)]))
            yield [read.popleft().result() for _ in range(min(width, len(rows) - begin))]
    finally:
        pool.shutdown(cancel_futures=True)


def start(some: list[Item], encoders: Encoders) -> dict[str, dict[str, jax.Array]]:
    """Let the devices begin a batch, filled up with its last record.

    The result of a row depends on its place, not on the other rows.
    """
    filled = some + [some[-1]] * (encoders.width - len(some))
    out = {"latents": {}, "text": {}, "recaption": {}}
    if encoders.latents:
        out["latents"] = encoders.latents(np.stack([item.pixels for item in filled]))
    if encoders.text:
        out["text"] = encoders.text(encoders.tokenize([item.record["caption"] for item in filled]))
        if any(item.record["recaption"] for item in some):
            out["recaption"] = encoders.text(
                encoders.tokenize([item.record["recaption"] for item in filled])
            )
    return out


def write(
    writer: ShardWriter, some: list[Item], out: dict[str, dict[str, jax.Array]], *, name: str
) -> int:
    """Write a batch when the devices have it. Returns how many records it has."""
    arrays = jax.device_get(out)
    for row, item in enumerate(some):
        own = {
            kind: {name: value[row] for name, value in values.items()} if item.whole else {}
            for kind, values in arrays.items()
        }
        if not item.record["recaption"]:
            own["recaption"] = {}
        for kind, values in own.items():
            if values and not values.pop("finite"):
                other = (
                    "store latents as float32 or bfloat16"
                    if kind == "latents"
                    else "give another --config.text.dtype"
                )
                raise InputError(
                    f"record {item.record['key']!r} of {name}: there are infinite values or NaN"
                    f" among its {kind}; {other}"
                )
        writer.write(pack(item.record, item.sizes, own["latents"], own["text"], own["recaption"]))
    return len(some)
