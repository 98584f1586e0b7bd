"""The starts of a run, by which a local checkpoint is known to belong to it.

A machine that was away may come back with a checkpoint that is newer than where the run has
resumed since. Its numbers may be those of other settings. So each start has a name of its own, and
what an earlier one made counts only up to the step where the next one began.
"""

import json
import secrets
from pathlib import Path

from data_pipeline.io import kept_fields
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import read_json, replacing

NAME = "local.json"
KEPT = 100  # starts that are remembered
_START = {
    "name": kept_fields.text("Its name."),
    "step": kept_fields.whole("Step from which it went on.", 0, 2**53),
}


def read(workdir: Path) -> dict:
    """Return {"run": the run's name, "starts": its starts, oldest first}.

    Both are new where there is no such file. Raises InputError on a damaged one.
    """
    path = workdir / NAME
    if not path.exists():
        return {"run": secrets.token_hex(8), "starts": []}
    value = read_json(path)
    starts = value.get("starts")
    for one in starts if isinstance(starts, list) else [None]:
        if said := kept_fields.wrong(one, _START):
            raise InputError(f"{path} is damaged: its starts are not a run's ({said}); remove it")
    if not isinstance(value.get("run"), str) or not value["run"].isalnum():
        raise InputError(f"{path} is damaged: it does not name the run; remove it")
    return value


def begin(workdir: Path, known: dict, step: int) -> str:
    """Record a start of the run from `step`, and return its name."""
    name = secrets.token_hex(8)
    starts = [*known["starts"], {"name": name, "step": step}][-KEPT:]
    with replacing(workdir / NAME, durable=True) as temporary:
        temporary.write_text(json.dumps({"run": known["run"], "starts": starts}) + "\n")
    return name


def belongs(known: dict, start: str, step: int) -> bool:
    """Return whether a checkpoint that `start` made at `step` is of the run as it is now."""
    names = [one["name"] for one in known["starts"]]
    if start not in names:
        return False
    return all(step <= one["step"] for one in known["starts"][names.index(start) + 1 :])
