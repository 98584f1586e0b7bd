"""One shard of a companion dataset: records read and decoded ahead, encoded batch after batch, written while the next is computed."""

import collections
import concurrent.futures
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np

from cv3jax.encode_programs import Encoders
from data_pipeline.array_records import ShardWriter
from data_pipeline.cache import FEATURES, pack
from data_pipeline.errors import InputError, naming
from data_pipeline.records import RecordSource

Item = tuple[dict[str, str], np.ndarray | None, np.ndarray]  # what a companion keeps of the record; pixels uint8 [S, S, 3]; sizes


def encode_shard(
    records: RecordSource, rows: range, encoders: Encoders, place: Path, path: Path, *, threads: int, advance: Callable[[int], None],
    stop: Callable[[], int | None],
) -> int:  # fmt: skip
    """Write the companion shard of the records `rows` to `path`, by way of the directory `place`. Returns how many it wrote.

    `advance(n)` is called as records are written; `stop` is asked after each batch, and leaves no shard, and 0.

    Raises:
        InputError: a record or its image is damaged, or the encoders make infinities of it.
        OSError: the disk is full, or fails.
    """
    temporary, before = place / path.name, None
    try:
        with ShardWriter(temporary, FEATURES) as writer:
            for some in batches(records, rows, encoders, threads):
                begun = (some, start(some, encoders))  # the devices are at it while the batch before is written
                if before:
                    advance(write(writer, *before, name=records.name))
                before = begun
                if stop():
                    return 0
            if before:
                advance(write(writer, *before, name=records.name))
        with naming(temporary), temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return len(rows)


def batches(records: RecordSource, rows: range, encoders: Encoders, threads: int) -> Iterator[list[Item]]:
    """Lists of `encoders.width` records, the last one of what is left; read and decoded ahead by `threads`."""

    def item(i: int) -> Item:
        record = records[i]
        kept = {name: record[name] for name in ("key", "sha256", "caption", "recaption")}
        if encoders.latents is None:
            return kept, None, np.zeros(6, np.int32)
        try:
            return kept, *encoders.view(record["image"])
        except InputError as e:
            raise InputError(f"record {record['key']!r} of {records.name}: {e}; pack the data again without it") from e

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
    """Have the devices begin a batch, filled up with its last record: a row's result depends on its place, not on what stands beside it."""
    filled = some + [some[-1]] * (encoders.width - len(some))
    out = {"latents": {}, "text": {}, "recaption": {}}
    if encoders.latents:
        out["latents"] = encoders.latents(np.stack([pixels for _, pixels, _ in filled]))
    if encoders.text:
        out["text"] = encoders.text(encoders.tokenize([record["caption"] for record, *_ in filled]))
        if any(record["recaption"] for record, *_ in some):
            out["recaption"] = encoders.text(encoders.tokenize([record["recaption"] for record, *_ in filled]))
    return out


def write(writer: ShardWriter, some: list[Item], out: dict[str, dict[str, jax.Array]], *, name: str) -> int:
    """Write a batch when the devices have it. Returns how many records that were."""
    arrays = jax.device_get(out)
    for row, (record, _, sizes) in enumerate(some):
        own = {kind: {name: value[row] for name, value in values.items()} for kind, values in arrays.items()}
        if not record["recaption"]:
            own["recaption"] = {}
        for kind, values in own.items():
            if values and not values.pop("finite"):
                other = "float32 or bfloat16" if kind == "latents" else "another --config.text.dtype"
                raise InputError(f"record {record['key']!r} of {name}: its {kind} is not finite as stored; take {other}")
        writer.write(pack(record, sizes, own["latents"], own["text"], own["recaption"]))
    return len(some)
