"""What may change when a run is resumed: some fields freely, others with `--allow-changed`.

Such changes are kept in WORKDIR/run.json and in the checkpoints after them.
"""

import dataclasses
import json
from pathlib import Path
from typing import Any

from cv3jax import recipes
from cv3jax.training.agreement import LOADING
from cv3jax.training.parsing import stage_defaults
from data_pipeline.io import kept_fields
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import read_json, replacing
from data_pipeline.records.digest import alike, json_digest

HISTORY = "run.json"
_CHANGE = {
    "step": kept_fields.whole("Step from which on the field was another.", 0, 2**53),
    "field": kept_fields.text("Its name."),
    "was": kept_fields.anything("Its value before."),
    "now": kept_fields.anything("Its value since."),
}
# fields that change no update, neither of a stage's run nor of a distillation's rounds
FREE = (
    "train.",
    "mesh.",
    "attention",
    "batch.per_device",
    *LOADING,
    "data.max_damaged",
    "profile",
)
RESUMABLE = (*FREE, "sample.", "init_from")  # for a stage's run
MODEL = "the parameters in the checkpoint belong to the old value"
STATE = "the optimizer's state in the checkpoint belongs to the old value"
TEXT = "the model was trained on the features of the old text encoder"
PARTS = {"stage", "init_part", "init_from"}  # which part of which cascade is read
# fields that no flag can change, and why; the longest matching prefix counts
FIXED = {
    "stage": MODEL,
    "model.": MODEL,
    "objective.prediction": "the model was trained with the old value",
    "schedule.": "the model was trained with the old schedule",
    "optim.posthoc": STATE,
    "optim.freeze": STATE,
    "optim.kind": STATE,
    "optim.moments": STATE,
    "optim.momentum": STATE,
    "text.": TEXT,
    **{f"lora.{name}": MODEL for name in ("rank", "alpha", "rslora", "dora", "targets")},
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a command asks for.

    It has a recipe, the content at its paths (`stage_inputs`), the fields that may differ from the
    run's (`--allow-changed`), and the fields that may differ without being named.
    """

    recipe: dict[str, Any]
    inputs: dict[str, Any] = dataclasses.field(default_factory=dict)
    allowed: tuple[str, ...] = ()
    resumable: tuple[str, ...] = RESUMABLE


def check_changes(asked: Asked, then: dict, step: int, history: list[dict], held: str) -> list:
    """Return the allowed changes since a checkpoint: {"step", "field", "was", "now"} each.

    then: what the checkpoint of `step` keeps of its run. A change that `history` has from this step
    on need not be allowed again. held: how an error message begins.

    Raises:
        InputError: a field differs and may not.
    """
    before = {(one["step"], one["field"], json.dumps(one["now"])) for one in history}
    changes, fixed, refused = [], {}, {}
    for name, was, now, shown in _differences(asked, then):
        known = (step, name, json.dumps(now)) in before
        if reason := _fixed(name, was, now, asked, then):
            fixed[name] = reason
        if fixed.get(name) or not (known or name in asked.allowed):
            refused[name] = shown
        changes.append({"step": step, "field": name, "was": was, "now": now})
    if not refused:
        return changes
    others = f"{held} other values of {', '.join(refused.values())}"
    if fixed:
        name, reason = next(iter(fixed.items()))
        raise InputError(
            f"{others}; give the old ones, or a new --workdir ({name} cannot change, because"
            f" {reason})"
        )
    raise InputError(
        f"{others}; give the old ones, or a new --workdir, or allow the change with --allow-changed"
        f" {','.join(refused)}"
    )


def differing(asked: Asked, then: dict) -> list[str]:
    """Return the fields that differ from what a checkpoint keeps of its run and may not.

    A field at whose path the content is another one is shown with that. `asked.allowed` does not
    count.
    """
    return [shown for *_, shown in _differences(asked, then)]


def check_allowed(asked: Asked, changes: list[dict], workdir: Path) -> None:
    """Raise InputError where a field of --allow-changed is in none of the run's `changes`."""
    known = {one["field"] for one in changes}
    if unknown := [name for name in asked.allowed if name not in known]:
        raise InputError(
            f"--allow-changed {unknown[0]}: no checkpoint in {workdir} has another value of"
            f" {unknown[0]}; leave it out"
        )


def read_history(workdir: Path) -> list[dict]:
    """Return the changes in run.json, or [] where there is no such file. Raises InputError."""
    path = workdir / HISTORY
    changes = read_json(path).get("changes", []) if path.exists() else []
    for one in changes if isinstance(changes, list) else [None]:
        if said := kept_fields.wrong(one, _CHANGE):
            raise InputError(f"{path} is damaged: its changes are not a run's ({said}); restore it")
    return changes


def keep_history(workdir: Path, changes: list[dict]) -> None:
    """Write the changes of a run, if any, in one step."""
    if changes and changes != read_history(workdir):
        with replacing(workdir / HISTORY) as temporary:
            temporary.write_text(json.dumps({"changes": changes}, indent=2) + "\n")


def merged(history: list[dict], changes: list[dict]) -> list[dict]:
    """Return `history` with those of `changes` that it does not have."""
    return history + [one for one in changes if one not in history]


def _differences(asked: Asked, then: dict) -> list[tuple[str, Any, Any, str]]:
    """Return (field, old value, new value, how a message shows it) of fields that may not differ.

    A path may change where the content at both paths is the same. A field that is newer than the
    checkpoint had its default value.
    """
    theirs, found = then.get("inputs", {}), []
    newer = _newer(asked.recipe, then["config"])
    both = {name for name in theirs if name in asked.inputs}
    same = {name for name in both if alike(theirs[name], asked.inputs[name])}
    for name in recipes.differences(asked.recipe, then["config"]):
        if name not in same and not name.startswith(asked.resumable):
            was, now = recipes.at(then["config"], name), recipes.at(asked.recipe, name)
            was = newer.get(name, was)
            if was != now:
                found.append((name, was, now, name))
    others = {name for name, *_ in found}
    if (others - set(asked.allowed)) & PARTS:  # which is refused, and reads another part
        both -= {"cascade", "init_from"}
    for name in sorted(both - same - others):  # at the same path
        shown = f"{name} (the content of {recipes.at(asked.recipe, name)} has changed)"
        found.append((name, *(json_digest(one[name]) for one in (theirs, asked.inputs)), shown))
    return found


def _newer(ours: dict, theirs: dict) -> dict[str, Any]:
    """Return dotted name → default of the fields of our recipe that theirs does not have."""
    known, defaults = recipes.leaves(theirs), stage_defaults(ours.get("stage", "base"))
    return {
        name: defaults[name]
        for name in recipes.leaves(ours)
        if name in defaults and name not in known
    }


def _fixed(name: str, was: Any, now: Any, asked: Asked, then: dict) -> str | None:
    """Return why a field cannot change at all, or None."""
    # a run without a digest may have the same content elsewhere
    if name == "cascade" and name in then.get("inputs", {}):
        return "the model was trained on the latents and text features of the old encoders"
    if name == "seed" and asked.recipe.get("text", {}).get("random"):
        return "the random text encoder's weights are drawn from it"
    if name == "distill.rounds":
        alike = len(was) == len(now) and all(
            (a[0], *a[3:]) == (b[0], *b[3:]) for a, b in zip(was, now, strict=False)
        )
        return None if alike else "a round was trained for its old steps and guidance weights"
    longest = max((prefix for prefix in FIXED if name.startswith(prefix)), key=len, default=None)
    return FIXED[longest] if longest else None
