"""A folder of pictures as the records of a fine-tune: WORKDIR/pictures.

The records are written once, and again where the folder, its captions or the settings have changed.
They appear when all are written. Pictures keep their bytes; training sees transparent ones on
white, as every decoder of this package shows them.

Class pictures (DreamBooth, arXiv 2208.12242) follow the pictures in the same records. Repeats give
both their shares: over an epoch the loss is that of the pictures plus `prior_weight` times that of
the class pictures, divided by 1 + `prior_weight`.
"""

import concurrent.futures
import fractions
import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.lora.folder_captions import Captioned, listed
from cv3jax.lora.picture_checks import Facts, is_transparent, oddities
from cv3jax.lora.picture_settings import PictureSettings
from data_pipeline.images.decode import MAX_ASPECT
from data_pipeline.io.errors import InputError, counted, naming, raise_machine
from data_pipeline.io.files import json_bytes, read_json
from data_pipeline.io.progress import bar, say
from data_pipeline.io.staging import replace_directory
from data_pipeline.io.terminal import visible
from data_pipeline.records.digest import alike, dataset_content
from data_pipeline.records.records import Record, RecordWriter, make_record, open_records
from data_pipeline.records.repeats import write_repeats
from data_pipeline.sources.folders import UnusableError, read_image

RECORDS, MADE_OF = "pictures", "pictures.json"  # in the workdir; in the records' directory
FORMAT = 1
_SHARD = 256  # pictures a shard, which is also what a feature cache resumes at
_THREADS = min(8, os.cpu_count() or 1)
_FINEST = 1000  # the largest denominator of the ratio of repeats


class Seen(NamedTuple):
    """What a stage sees of a picture: the side of its crop, and the least side, in pixels.

    masked: whether what is transparent is left out of the loss.
    """

    image_size: int
    min_side: int = 0
    masked: bool = False


class Prior(NamedTuple):
    """The first `count` class pictures of a folder, by name; all of them have one caption."""

    folder: Path
    caption: str
    count: int


class _Entry(NamedTuple):
    """A picture to be written."""

    path: Path
    inside: Path  # the folder that it may not leave by a link
    key: str
    caption: str
    repeats: int  # of its folder or of the settings


def records_of(
    pictures: Path,
    workdir: Path,
    settings: PictureSettings,
    seen: Seen,
    prior: Prior | None = None,
    begun: Any = None,
) -> Path:
    """Return WORKDIR/pictures, the records of a folder of pictures, after writing what is missing.

    A picture's caption and repeats are those of `folder_captions`. When they are written, one line
    each on stderr says what is odd about the pictures. begun: `data_content` of the records that a
    run has; others are an error, and leave them as they were.

    Raises:
        InputError: there is no such folder or no picture in it; a picture cannot be read, is longer
            than 8:1, or has no caption; or the records cannot be written, or are not those begun.
        OSError: the machine fails; the same command starts over.
    """
    some, alone = listed(pictures, settings)
    chosen = _own(pictures, some)
    others = [] if prior is None else _of_class(prior)
    out, weight = workdir / RECORDS, settings.prior_weight
    made_of = _made_of(chosen, others, weight)
    why = ""
    if (out / MADE_OF).is_file():
        if not (why := _changed(out, made_of)):
            return out
        if begun is None:
            say(f"cv3jax: {out} is written again: {why}")
    if alone:
        names = ", ".join(visible(path.name, 80) for path in alone[:3])
        more = ", …" if len(alone) > 3 else ""
        say(f"cv3jax: {counted(len(alone), '.txt file')} without a picture: {names}{more}")
    place = out if begun is None else out.with_name(f"{out.name}.new")
    lines = _write(place, chosen, others, weight, seen, made_of)
    if begun is not None:
        if not alike(begun[0][0], dataset_content(place)):
            shutil.rmtree(place)
            raise InputError(
                f"{workdir} holds a run on other pictures{why and f': {why}'}; give those, or a new"
                " --workdir, or train on with these by --allow-changed data.path"
            )
        replace_directory(place, out)
    for line in lines[:-1]:
        say(f"cv3jax: {line}")
    say(f"cv3jax: {out}: {lines[-1]}")
    return out


def shares(repeats: Sequence[int], others: int, weight: float) -> tuple[int, int]:
    """Return (the factor of all repeats, how often an epoch has each of `others` class pictures).

    Of the ratios that whole numbers allow, that of all class pictures to all pictures is the
    nearest to `weight`. Without class pictures the repeats stay.

    repeats: those of the pictures that are large enough to be seen.
    """
    if not others:
        return 1, 0
    ratio = fractions.Fraction(weight) * sum(repeats) / others
    ratio = max(ratio.limit_denominator(_FINEST), fractions.Fraction(1, _FINEST))
    return ratio.denominator, ratio.numerator


def _own(root: Path, some: list[Captioned]) -> list[_Entry]:
    inside = root.resolve()
    return [
        _Entry(one.path, inside, one.path.relative_to(root).as_posix(), one.caption, one.repeats)
        for one in some
    ]


def _of_class(prior: Prior) -> list[_Entry]:
    inside = prior.folder.resolve()
    return [
        _Entry(path, inside, f"class pictures/{path.name}", prior.caption, 1)
        for path in sorted(prior.folder.glob("*.png"))[: prior.count]
    ]


def _made_of(chosen: list[_Entry], others: list[_Entry], weight: float) -> dict[str, Any]:
    """Return what the records are made of; they are written again where it changes."""

    def described(some: list[_Entry]) -> dict[str, Any]:
        total = hashlib.sha256()
        for one in some:
            stamp = ()
            try:
                status = one.path.stat()
                stamp = (status.st_size, status.st_mtime_ns)
            except OSError as e:  # reading the picture says what is wrong with it
                raise_machine(e, one.path)
            line = f"{one.key!r} {stamp} {one.caption!r} {one.repeats}\n"
            total.update(line.encode(errors="surrogateescape"))
        return {"count": len(some), "sha256": total.hexdigest()}

    return {
        "format": FORMAT,
        "pictures": described(chosen),
        "class_pictures": described(others),
        "prior_weight": float(weight) if others else None,
    }


def _changed(out: Path, now: dict[str, Any]) -> str:
    """Return why records have to be written again, or ""."""
    try:
        kept = read_json(out / MADE_OF)
        if kept == now:
            open_records(out)
            return ""
    except InputError as e:
        return str(e)
    if kept.get("pictures") == now["pictures"]:
        return "the class pictures or their weight have changed"
    before, after = (
        one["pictures"].get("count") if isinstance(one.get("pictures"), dict) else None
        for one in (kept, now)
    )
    if isinstance(before, int) and before != after:
        return f"the folder had {counted(before, 'picture')}, and now has {after:,}"
    return "the folder's pictures, captions or repeats have changed"


def _write(
    out: Path,
    chosen: list[_Entry],
    others: list[_Entry],
    weight: float,
    seen: Seen,
    made_of: dict[str, Any],
) -> list[str]:
    """Write the records. Returns oddities of the pictures, and a line of how often they occur."""
    every, own = [*chosen, *others], len(chosen)
    shards = -(-len(every) // _SHARD)
    facts: list[Facts] = []
    with RecordWriter(out, shards=shards, overwrite=True) as writer:
        with bar(len(every), "read the pictures", "picture") as shown:
            for record, transparent in _records(every):
                writer.write(record)
                shown.update()
                sizes = (record["height"], record["width"])
                hashes = (record["sha256"], int(record["phash"], 16))
                facts.append(Facts(record["key"], *sizes, *hashes, transparent))
        lines = oddities(
            facts[:own],
            lambda i: read_image(every[i].path, every[i].inside).data,
            *seen,
        )
        large = [min(one.height, one.width) >= seen.min_side for one in facts]
        kept = [one.repeats for one, fits in zip(chosen, large, strict=False) if fits]
        if not kept:
            raise InputError(
                f"all {counted(own, 'picture')} are below data.min_side = {seen.min_side} pixels on"
                " the shorter side; give larger ones, or a smaller data.min_side"
            )
        classes = sum(large[own:])
        factor, each = shares(kept, classes, weight)
        repeats = [one.repeats * factor for one in chosen] + [max(each, 1)] * len(others)
        said = f"{counted(len(kept), 'picture')}, which an epoch has {sum(kept) * factor:,} times"
        said += " in all"
        if others:
            said += f", and {counted(classes, 'class picture')}, {each * classes:,} times"
        # in the order of the records: one shard after the other
        places = [k for shard in range(shards) for k in range(shard, len(every), shards)]
        write_repeats(writer.staging, [repeats[k] for k in places])
        with naming(writer.staging / MADE_OF):
            (writer.staging / MADE_OF).write_bytes(json_bytes(made_of))
    return [*lines, said]


def _records(every: list[_Entry]) -> Iterator[tuple[Record, bool]]:
    """Yield the record of each picture, and whether it is transparent in parts, in order."""
    with concurrent.futures.ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(every), 8 * _THREADS):  # few are in memory at a time
            yield from pool.map(_record, every[start : start + 8 * _THREADS])


def _record(one: _Entry) -> tuple[Record, bool]:
    """Return a picture's record. Raises InputError, which names it, where it cannot be used."""
    try:
        f"{one.key}{one.caption}".encode()
    except UnicodeEncodeError as e:
        raise InputError(f"{one.path}: its name is not valid UTF-8; rename it") from e
    try:
        data = read_image(one.path, one.inside).data
        record = make_record(data, one.caption, key=one.key)
        transparent = is_transparent(data)
    except UnusableError as e:
        raise InputError(f"{one.path} cannot be read: {e.reason} ({e.detail})") from e
    except InputError as e:
        raise InputError(f"{one.path} cannot be read: {e}; replace it or remove it") from e
    short, long = sorted((record["width"], record["height"]))
    if long > MAX_ASPECT * short:
        size = f"{record['width']}×{record['height']}"
        raise InputError(f"{one.path} is {size}, longer than {MAX_ASPECT}:1; crop it")
    return record, transparent
