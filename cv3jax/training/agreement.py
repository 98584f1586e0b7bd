"""See that all processes of a run were given the same recipe, the same flags and the same data."""

import json
from importlib.metadata import version
from typing import Any

from cv3jax import __version__, recipes
from cv3jax.distributed import processes
from data_pipeline.io.bounded_json import OWN, parse_json
from data_pipeline.io.errors import InputError
from data_pipeline.records.digest import alike

# fields of a loader that may suit each machine, and change no batch
LOADING = ("data.threads", "data.workers", "data.cache_dir", "data.cache_gb")
# all fields that may suit each machine
PER_MACHINE = (*LOADING, "profile", "train.local_dir")
MOST = 3  # differences that are named


def check_agreement(recipe: dict[str, Any], inputs: dict[str, Any], flags: dict[str, Any]) -> None:
    """Return where process 0 has the same recipe, contents, flags and libraries as this process.

    recipe: all fields. inputs: {field: the identity of the content at its path}
    (`inputs.stage_inputs`); the path itself may be another one. flags: of the command line, name →
    value. All are JSON. All processes call this together, and all end where one of them differs.

    Raises:
        InputError: something differs; the message names it.
    """
    if (peers := processes.peers()) is None:
        return
    libraries = {name: version(name) for name in ("jax", "jaxlib", "flax")}
    libraries["cv3jax"] = __version__
    given = {"recipe": recipe, "inputs": inputs, "flags": {**flags, **libraries}}
    ours = parse_json(json.dumps(given), OWN, nan=True)  # as it arrives: tuples are lists
    differing = differences(ours, processes.first("agreement", lambda: ours))
    if differing:
        more = "; …" if len(differing) > MOST else ""
        raise InputError(
            f"process {peers.index} has other settings than process 0:"
            f" {'; '.join(differing[:MOST])}{more}; give all processes the same command"
        )
    # none begins before all have looked
    processes.barrier("agreed")


def differences(ours: dict[str, dict], theirs: dict[str, dict]) -> list[str]:
    """Return in words what differs between the "recipe", "inputs" and "flags" of two processes."""
    said = []
    for name in recipes.differences(ours["recipe"], theirs["recipe"]):
        if name not in ours["inputs"] and not name.startswith(PER_MACHINE):
            here, there = (recipes.at(side["recipe"], name) for side in (ours, theirs))
            said.append(f"config.{name} is {here}, not {there}")
    for name in sorted({*ours["inputs"], *theirs["inputs"]}):
        if not alike(*(side["inputs"].get(name, "") for side in (ours, theirs))):
            said.append(f"the content of config.{name} is another one")
    for name, here in ours["flags"].items():
        if here != (there := theirs["flags"].get(name)):
            said.append(f"{name} is {here}, not {there}")
    return said
