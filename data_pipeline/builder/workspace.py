"""The directory of an unfinished build, OUTPUT.build: what each pass has done so far, so that a
killed build goes on.

    plan.json                     of which inputs and settings
    decided.json                  the same again, when all units are decided
    scan/UNIT.gz                  a header, and what each item of the unit is (measure.py)
    decide/UNIT.gz, UNIT.json     the items not kept as they are, and the unit's figures
    shards/GROUP.array_record, GROUP.json

A file appears under its name when it is whole. All passes may run on other machines, so on them the
directory must be shared.
"""

import dataclasses
import json
from typing import Any

from data_pipeline.io import storage

SCAN, DECIDE, SHARDS = "scan", "decide", "shards"
PLAN, DECIDED = "plan.json", "decided.json"


@dataclasses.dataclass(frozen=True)
class Work:
    folder: str

    def path(self, part: str, number: int, suffix: str = "gz") -> str:
        return storage.join(self.folder, part, f"{number:06d}.{suffix}")

    def done(self, part: str, suffix: str) -> set[int]:
        """The numbers of the units or groups that `part` has whole."""
        names = (
            path.rpartition("/")[2]
            for path in storage.names(storage.join(self.folder, part), f".{suffix}")
        )
        return {int(name.partition(".")[0]) for name in names if name.count(".") == 1}

    def read(self, name: str) -> dict[str, Any] | None:
        path = storage.join(self.folder, name)
        return json.loads(storage.read(path)) if storage.exists(path) else None

    def write(self, name: str, value: Any) -> None:
        storage.write(storage.join(self.folder, name), json.dumps(value, sort_keys=True).encode())

    def clear(self, *parts: str) -> None:
        """Removes what these parts have: first the files that say that others are whole."""
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
