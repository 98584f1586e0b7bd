"""One shard of a companion dataset: records read and decoded ahead, encoded batch after batch,
written while the next is computed.
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

    record: dict[str, str]  # KEPT of it
    pixels: np.ndarray | None  # uint8 [side, side, 3], where there are latents to make
    sizes: np.ndarray  # int32 [6]
    whole: bool  # else neither image nor captions can be read, and its companion has no arrays
    several: bool = False  # its source has more captions than the one that features are made of


class Hooks(NamedTuple):
    """What is called while a shard is made."""

    damaged: Callable[[str], None]  # of a record that cannot be read, by other threads; may raise
    advance: Callable[[int], None]  # so many records were written
    stop: Callable[[], int | None]  # after each batch; where it says so, no shard is left
    several: Callable[[int], None]  # so many records of a shard have captions without features


class _StoppedError(Exception):
    """Leaves the blocks of a shard that is not to appear."""


def encode_shard(
    records: RecordSource,
    rows: range,
    encoders: Encoders,
    place: Path,
    path: Path,
    threads: int,
    hooks: Hooks,
) -> int:
    """Write the companion shard of the records `rows` to `path`, by way of the directory `place`.

    Returns how many it wrote.

    Raises:
        InputError: the encoders make infinities of a record.
        OSError: the disk is full, or fails.
    """
    before, several = None, 0
    try:
        with (
            replacing(path, place / path.name, durable=True) as temporary,
            ShardWriter(temporary, FEATURES) as writer,
        ):
            for some in batches(records, rows, encoders, threads, hooks.damaged):
                # the devices are at it while the batch before is written
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
    """Lists of `encoders.width` records, the last one of what is left; read and decoded ahead by
    `threads`.
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
            while len(read) < min(3 * width, len(rows) - begin):  # this batch, and two ahead
                read.append(pool.submit(item, rows[begin + len(read)]))
            yield [read.popleft().result() for _ in range(min(width, len(rows) - begin))]
    finally:
        pool.shutdown(cancel_futures=True)


def start(some: list[Item], encoders: Encoders) -> dict[str, dict[str, jax.Array]]:
    """Have the devices begin a batch, filled up with its last record: a row's result depends on its
    place, not on what stands beside it.
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
    """Write a batch when the devices have it. Returns how many records that were."""
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
