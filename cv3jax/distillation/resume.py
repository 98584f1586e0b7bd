"""Find where a distillation resumes, and check that its recipe and data are the same."""

import dataclasses
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.distillation.settings import DistillSettings
from cv3jax.training.changes import (
    FREE,
    Asked,
    check_allowed,
    check_changes,
    merged,
    read_history,
)
from cv3jax.training.inputs import stage_inputs
from cv3jax.training.resume import Resumed, check_resume
from data_pipeline.io import kept_fields
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import read_json
from data_pipeline.records.digest import json_digest

RESUMABLE = (*FREE, "distill.student")
FIGURES = "figures.json"
_FIGURES = {"updates": kept_fields.whole("Updates of a round that is done.", 0, 2**53)}


class Rounds(NamedTuple):
    """The rounds that are found."""

    figures: list[dict | None]  # of the rounds that are done
    resumed: list[Resumed]  # where the others resume
    changes: list[dict]  # all changes that were allowed, in any round


def distill_inputs(settings: DistillSettings) -> dict[str, Any]:
    """Return `stage_inputs` with the teacher of the first round."""
    stage = settings.stage
    found = stage_inputs(stage)
    teacher = parts_fingerprint(stage.init_from or stage.cascade, (stage.stage,))
    if stage.init_from:
        return {**found, "init_from": teacher}
    return {**found, "cascade": json_digest([found["cascade"], teacher])}


def of_round(asked: Asked, settings: DistillSettings, number: int) -> Asked:
    """Return what is asked for one round."""
    return dataclasses.replace(asked, recipe=settings.of_round(number).stage.json)


def find_rounds(settings: DistillSettings, asked: Asked, workdir: Path) -> Rounds:
    """Return the rounds under `workdir`. asked: for the whole distillation.

    Raises:
        InputError: a round was made from another recipe or other data, or is missing while a later
            round exists.
    """
    before = read_history(workdir)
    figures, resumed, changes = [], [], before
    for round in settings.rounds:
        place, own = workdir / "rounds" / round.name, of_round(asked, settings, round.number)
        if (path := place / FIGURES).exists():
            figures.append(read_json(path))
            step, held = figures[-1].get("updates"), f"{place} was made with"
            if said := kept_fields.wrong(figures[-1], _FIGURES):
                raise InputError(f"{path} is damaged: {said}; restore it")
            now = check_changes(own, figures[-1], step, before, held)
            resumed.append(Resumed(step, now))
        else:
            figures.append(None)
            resumed.append(check_resume(own, place, history=before))
        changes = merged(changes, resumed[-1].changes)
    if None in figures and any(figures[figures.index(None) :]):
        raise InputError(
            f"{workdir}: round {figures.index(None) + 1} is missing, but a later round is there;"
            " give a new --workdir"
        )
    check_allowed(asked, changes, workdir)
    return Rounds(figures, resumed, changes)
