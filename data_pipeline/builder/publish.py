"""Last step: the shards under their final names with a description, report and settings, shown
under the dataset's name all at once.
"""

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from data_pipeline.builder.statistics import Statistics
from data_pipeline.builder.workspace import DECIDE, SHARDS, Work
from data_pipeline.builder.write import SUFFIX
from data_pipeline.io import storage
from data_pipeline.io.errors import naming
from data_pipeline.io.staging import replace_directory
from data_pipeline.records.array_records import shard_name, write_description
from data_pipeline.records.records import ABOUT, FEATURES, NAME
from data_pipeline.records.sizes import write_sizes

BUILD = "build.json"  # beside the records: of which inputs and settings they are


def merged(work: Work, units: int) -> Statistics:
    """The figures of all units."""
    total = Statistics()
    for unit in range(units):
        total.merge(json.loads(storage.read(work.path(DECIDE, unit, "json"))))
    return total


def finish(work: Work, out: str, groups: int, side_files: dict[str, bytes]) -> None:
    """Publishes the dataset at `out`; `side_files` lie beside the records.

    May be repeated, when it was killed on the way.
    """
    made = [
        (group, json.loads(storage.read(work.path(SHARDS, group, "json"))))
        for group in range(groups)
    ]
    made = [(group, shard) for group, shard in made if shard["sizes"]]
    remote = storage.is_remote(out)
    with tempfile.TemporaryDirectory(prefix="cv3jax-") as elsewhere:
        staging = Path(elsewhere) if remote else Path(work.folder) / "out"
        shutil.rmtree(staging, ignore_errors=True)
        with naming(staging):
            staging.mkdir()
        for number, (group, _) in enumerate(made):
            source, name = work.path(SHARDS, group, SUFFIX), shard_name(NAME, number, len(made))
            if remote:
                storage.copy(source, storage.join(out, name))
                (staging / name).touch()  # TFDS looks which there are
            else:
                _link(Path(source), staging / name)
        lengths = [len(shard["sizes"]) for _, shard in made]
        write_description(
            staging,
            lengths,
            sum(shard["bytes"] for _, shard in made),
            name=NAME,
            features=FEATURES,
            about=ABOUT,
        )
        write_sizes(staging, [size for _, shard in made for size in shard["sizes"]])
        for name, data in side_files.items():
            (staging / name).write_bytes(data)
        if not remote:
            replace_directory(staging, Path(out))
            return
        files = [path for path in staging.iterdir() if f".{SUFFIX}-" not in path.name]
        # that one last: with it, it is a dataset
        for path in sorted(files, key=lambda path: path.name == "dataset_info.json"):
            storage.write(storage.join(out, path.name), path.read_bytes())


def _link(source: Path, target: Path) -> None:
    """A second name for a file, so that the first stays until all is done; a copy where the file
    system has no links.
    """
    try:
        os.link(source, target)
    except OSError:
        with naming(target):
            shutil.copyfile(source, target)


def as_bytes(value: Any) -> bytes:
    return (json.dumps(value, indent=2, ensure_ascii=False) + "\n").encode()
