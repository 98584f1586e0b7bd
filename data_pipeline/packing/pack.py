"""Packing captioned images into a record dataset.

What is left out is counted by reason and reported; it never stops the rest.
"""

import collections
import concurrent.futures
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from data_pipeline.images.bounds import TooCostlyError
from data_pipeline.images.decode import MAX_ASPECT, MAX_IMAGE_BYTES, MAX_PIXELS, TooLargeError
from data_pipeline.images.formats import UnsupportedError
from data_pipeline.io.errors import InputError, naming
from data_pipeline.io.files import json_bytes
from data_pipeline.io.progress import bar
from data_pipeline.records.records import Record, RecordWriter, make_record
from data_pipeline.sources.detect import open_source
from data_pipeline.sources.items import (
    DUPLICATE,
    TOO_COSTLY,
    TOO_LARGE,
    TOO_LONG,
    UNDECODABLE,
    UNSUPPORTED,
    Item,
    Skip,
    record_scores,
)

REPORT = "pack_report.json"
_EXAMPLES, _LINE = 20, 400  # examples per reason in the report; characters of an example


def pack(
    source: str | Path,
    out: str | Path,
    *,
    shards: int = 8,
    overwrite: bool = False,
    max_bytes: int = MAX_IMAGE_BYTES,
    max_pixels: int = MAX_PIXELS,
    workers: int | None = None,
) -> dict[str, Any]:
    """Pack a folder (images with .txt, or a table) or img2dataset tars into ArrayRecord shards.

    The records depend on the source's files alone and not on `workers`: same order, same keys, same
    bytes.

    Args:
        source: see `detect.open_source`.
        out: the dataset's directory; it appears when everything is written.
        shards: the number of ArrayRecord files.
        overwrite: replace a dataset that is already there.
        max_bytes: the most bytes of an image; larger ones are left out.
        max_pixels: the most pixels of an image; larger ones are left out. So are images longer than
            8:1 (decode.MAX_ASPECT).
        workers: threads that decode and hash; None: one per core, at most 16.

    Returns:
        The report, also written to `out`/pack_report.json: {"source", "kind", "records", "bytes",
        "skipped": {reason: n}, "examples": {reason: ["key: detail", …]}, "unreadable": {field:
        {"items": n, "example"}} of fields that cannot be understood, "seconds"}.

    Raises:
        InputError: there is no such source, `out` cannot be written, or no image is usable.
    """
    start = time.monotonic()
    opened = open_source(source)
    skipped: collections.Counter[str] = collections.Counter()
    examples: dict[str, list[str]] = {}
    unreadable: dict[str, dict[str, Any]] = {}
    seen: set[str] = set()
    size = 0
    workers = workers or min(16, os.cpu_count() or 1)
    with RecordWriter(out, shards=shards, overwrite=overwrite) as writer:
        with bar(opened.total, "pack", opened.unit) as shown:
            for result, progress in _decoded(
                _telling(opened.items, unreadable), workers, max_bytes, max_pixels
            ):
                shown.update(progress)
                if not isinstance(result, Skip) and result["key"] in seen:
                    result = Skip(result["key"], DUPLICATE)
                if isinstance(result, Skip):
                    skipped[result.reason] += 1
                    if len(lines := examples.setdefault(result.reason, [])) < _EXAMPLES:
                        line = f"{result.key}: {result.detail}" if result.detail else result.key
                        # a name from JSON may hold half a surrogate pair, and one from a file
                        # system any bytes
                        lines.append(line[:_LINE].encode(errors="backslashreplace").decode())
                    continue
                seen.add(result["key"])
                size += len(result["image"])
                writer.write(result)
        if not writer.count:
            reasons = (
                ", ".join(f"{n} × {reason}" for reason, n in skipped.most_common()) or "no items"
            )
            first = next(iter(examples.values()), [""])[0]
            raise InputError(
                f"nothing usable in {source}: {reasons} (first: {first}); give images, each with a"
                " caption of the same name"
            )
        report = {
            "source": str(source),
            "kind": opened.kind,
            "records": writer.count,
            "bytes": size,
            "skipped": dict(sorted(skipped.items())),
            "examples": dict(sorted(examples.items())),
            "unreadable": dict(sorted(unreadable.items())),
            "seconds": round(time.monotonic() - start, 2),
        }
        with naming(writer.staging / REPORT):
            (writer.staging / REPORT).write_bytes(json_bytes(report))
    return report


def _telling(
    items: Iterable[tuple[Item | Skip, int]], unreadable: dict[str, dict[str, Any]]
) -> Iterator[tuple[Item | Skip, int]]:
    """Yield the items unchanged; count in `unreadable` their fields that cannot be understood."""
    for item, progress in items:
        for field, shown in ({} if isinstance(item, Skip) else item.unreadable).items():
            unreadable.setdefault(field, {"items": 0, "example": shown})["items"] += 1
        yield item, progress


def _decoded(
    items: Iterable[tuple[Item | Skip, int]], workers: int, max_bytes: int, max_pixels: int
) -> Iterator[tuple[Record | Skip, int]]:
    """Decode and hash in threads (Pillow releases the GIL), in the order of `items`.

    Only few items are in memory at a time.
    """

    def decode(item: Item) -> Record | Skip:
        try:
            record = make_record(
                item.image,
                item.caption,
                key=item.key,
                url=item.url,
                scores=record_scores(item.scores, item.others),
                max_bytes=max_bytes,
                max_pixels=max_pixels,
            )
        except TooLargeError as e:
            return Skip(item.key, TOO_LARGE, str(e))
        except TooCostlyError as e:
            return Skip(item.key, TOO_COSTLY, str(e))
        except UnsupportedError as e:
            return Skip(item.key, f"{UNSUPPORTED} {e.kind}", str(e))
        except InputError as e:
            return Skip(item.key, UNDECODABLE, str(e))
        short, long = sorted((record["width"], record["height"]))
        if long > MAX_ASPECT * short:
            return Skip(
                item.key,
                TOO_LONG,
                f"{record['width']}x{record['height']} pixels, at most {MAX_ASPECT}:1",
            )
        return record

    with concurrent.futures.ThreadPoolExecutor(workers) as pool:
        waiting: collections.deque = collections.deque()
        for item, progress in items:
            waiting.append(
                (item if isinstance(item, Skip) else pool.submit(decode, item), progress)
            )
            if len(waiting) > 2 * workers:
                yield _resolved(*waiting.popleft())
        while waiting:
            yield _resolved(*waiting.popleft())


def _resolved(
    result: "Skip | concurrent.futures.Future[Record | Skip]", progress: int
) -> tuple[Record | Skip, int]:
    return (result if isinstance(result, Skip) else result.result()), progress
