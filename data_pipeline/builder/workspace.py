"""The directory of an unfinished build, OUT.build, from which a killed build resumes.

    plan.json                     the inputs and settings
    decided.json                  the same, written when all units are decided
    scan/UNIT.gz                  a header, and the facts of each item of the unit (measure.py)
    decide/UNIT.gz, UNIT.json     the items that are not kept as they are; the unit's statistics
    shards/GROUP.array_record, GROUP.json

A file appears under its name when it is complete. The passes may run on other machines, which must
then share the directory.
"""

import dataclasses
import json
from typing import Any

from data_pipeline.io import storage
from data_pipeline.io.bounded_json import OWN, ParseError, parse_json
from data_pipeline.io.errors import InputError

SCAN, DECIDE, SHARDS = "scan", "decide", "shards"
PLAN, DECIDED = "plan.json", "decided.json"


def read_kept(path: str) -> dict[str, Any]:
    """Return the object in a JSON file. Raises InputError where it is damaged."""
    try:
        value = parse_json(storage.read(path), OWN, nan=True)
    except ParseError as e:
        raise damaged(path, str(e)) from e
    if not isinstance(value, dict):
        raise damaged(path, "it is no object")
    return value


def damaged(path: str, said: str) -> InputError:
    """Return the error that a file of a build is not as it was written."""
    return InputError(f"{path} is damaged ({said}); remove it and run the same command again")


@dataclasses.dataclass(frozen=True)
class Work:
    """The directory of an unfinished build."""

    folder: str

    def path(self, part: str, number: int, suffix: str = "gz") -> str:
        """Return the path of a file of a part."""
        return storage.join(self.folder, part, f"{number:06d}.{suffix}")

    def done(self, part: str, suffix: str) -> set[int]:
        """Return the numbers of the units or groups whose files in `part` are complete."""
        names = (
            path.rpartition("/")[2]
            for path in storage.names(storage.join(self.folder, part), f".{suffix}")
        )
        return {int(name.partition(".")[0]) for name in names if name.count(".") == 1}

    def read(self, name: str) -> dict[str, Any] | None:
        """Return the content of a JSON file, or None where it does not exist.

        Raises InputError where it is not the object that was written.
        """
        path = storage.join(self.folder, name)
        return read_kept(path) if storage.exists(path) else None

    def write(self, name: str, value: Any) -> None:
        """Write a JSON file."""
        storage.write(storage.join(self.folder, name), json.dumps(value, sort_keys=True).encode())

    def clear(self, *parts: str) -> None:
        """Remove the files of these parts, first those that mark others as complete."""
        storage.remove(
            [
                storage.join(self.folder, name)
                for name in ((PLAN, DECIDED) if SCAN in parts else (DECIDED,))
            ]
        )
        for part in parts:
            storage.remove(
                sorted(
                    storage.names(storage.join(self.folder, part), ""),
                    key=lambda path: not path.endswith(".json"),
                )
            )
