"""The last step: the shards get their final names, a description, the report and the settings.

They appear under the dataset's name all at once.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from data_pipeline.builder.statistics import Statistics
from data_pipeline.builder.workspace import DECIDE, SHARDS, Work, damaged, read_kept
from data_pipeline.builder.write import SUFFIX
from data_pipeline.io import kept_fields, storage
from data_pipeline.io.errors import first_line, naming
from data_pipeline.io.staging import replace_directory
from data_pipeline.records.array_records import shard_name, write_description
from data_pipeline.records.records import ABOUT, FEATURES, NAME
from data_pipeline.records.sizes import write_pieces

_SIDE = kept_fields.whole("Pixels.", 1, 2**20)
_SHARD = {
    "bytes": kept_fields.whole("Size of the shard.", 0, 2**53),
    "sizes": kept_fields.several(
        "Height and width of each picture.", kept_fields.several("", _SIDE, 2, 2), 0, 2**31
    ),
}
BUILD = "build.json"  # beside the records: the inputs and settings that made them


def merged(work: Work, units: int) -> Statistics:
    """Return the statistics of all units."""
    total = Statistics()
    for unit in range(units):
        path = work.path(DECIDE, unit, "json")
        try:
            total.merge(read_kept(path))
        except (ValueError, LookupError, TypeError, AttributeError) as e:
            raise damaged(path, f"{type(e).__name__}: {first_line(e, 80)}") from e
    return total


def finish(work: Work, out: str, groups: int, side_files: dict[str, bytes]) -> None:
    """Publish the dataset at `out`, with `side_files` beside the records.

    It can be repeated after it was killed.
    """
    made, size = {}, 0  # the number of records of each shard that has some
    for group in range(groups):
        shard = _shard(work, group)
        if shard["sizes"]:
            made[group] = len(shard["sizes"])
            size += shard["bytes"]
    remote = storage.is_remote(out)
    with tempfile.TemporaryDirectory(prefix="cv3jax-") as elsewhere:
        staging = Path(elsewhere) if remote else Path(work.folder) / "out"
        shutil.rmtree(staging, ignore_errors=True)
        with naming(staging):
            staging.mkdir()
        for number, group in enumerate(made):
            source, name = work.path(SHARDS, group, SUFFIX), shard_name(NAME, number, len(made))
            if remote:
                storage.copy(source, storage.join(out, name))
                (staging / name).touch()  # TFDS lists the shards
            else:
                _link(Path(source), staging / name)
        write_description(
            staging, list(made.values()), size, name=NAME, features=FEATURES, about=ABOUT
        )
        # read again, so that the sizes of one shard are held at a time
        write_pieces(staging, (_shard(work, group)["sizes"] for group in made), sum(made.values()))
        for name, data in side_files.items():
            (staging / name).write_bytes(data)
        if not remote:
            replace_directory(staging, Path(out))
            return
        files = [path for path in staging.iterdir() if f".{SUFFIX}-" not in path.name]
        # dataset_info.json last, because with it the directory is a dataset
        for path in sorted(files, key=lambda path: path.name == "dataset_info.json"):
            storage.write(storage.join(out, path.name), path.read_bytes())


def _shard(work: Work, group: int) -> dict[str, Any]:
    """Return what a build keeps of a shard: its bytes, and the sizes of its pictures."""
    path = work.path(SHARDS, group, "json")
    shard = read_kept(path)
    if said := kept_fields.wrong(shard, _SHARD):
        raise damaged(path, said)
    return shard


def _link(source: Path, target: Path) -> None:
    """Give a file a second name, so that the first stays until all is done.

    Where the file system has no links, the file is copied.
    """
    try:
        os.link(source, target)
    except OSError:
        with naming(target):
            shutil.copyfile(source, target)


def as_bytes(value: Any) -> bytes:
    """Return a value as indented JSON."""
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
