"""What a distillation is to do, from the recipe: its rounds, their grids, and which teacher they
can have.
"""

import math
from typing import NamedTuple

from ml_collections import ConfigDict

from cv3jax.diffusion.schedule import Grid, base_grid, relay_grid
from cv3jax.distillation.loss import TARGETS
from data_pipeline.io.errors import InputError

ENTRY = "(student steps, updates, learning rate, least w, greatest w)"


class Plan(NamedTuple):
    """A round: a student of `steps` is taught by a teacher of twice as many."""

    number: int  # from 1
    steps: int
    updates: int
    lr: float
    w: tuple[float, float]  # range of guidance weights

    @property
    def name(self) -> str:
        return f"{self.number}_{self.steps}_steps"


def plans(config: ConfigDict) -> tuple[Plan, ...]:
    """The rounds of config.distill.rounds.

    Raises:
        InputError: an entry that is none, steps that do not halve, a w that the round before did
            not learn, or another field of config.distill that cannot be.
    """
    d = config.distill
    where = "config.distill.rounds"
    if not d.rounds:
        raise InputError(f"{where} is empty; give one or more of {ENTRY}")
    found = []
    for number, entry in enumerate(d.rounds, 1):
        plan = _plan(number, entry, f"{where}[{number - 1}] = {entry}")
        if found:
            before = found[-1]
            if plan.steps * 2 != before.steps:
                raise InputError(
                    f"{where}: {before.steps} steps are halved to {before.steps / 2:g}, not to"
                    f" {plan.steps}"
                )
            if not within(plan.w, before.w):
                knows = f"but its teacher, round {number - 1}, knows {span(before.w)}"
                raise InputError(f"{where}: round {number} has w in {span(plan.w)}, {knows}")
        found.append(plan)
    try:
        grid_of(config, 2 * found[0].steps)
    except ValueError as e:
        raise InputError(f"{where}: a teacher of {2 * found[0].steps} steps: {e}") from e
    if d.target not in TARGETS:
        raise InputError(f"config.distill.target = {d.target!r}: one of {', '.join(TARGETS)}")
    if not 0 < d.ema <= 1:
        raise InputError(
            f"config.distill.ema = {d.ema}: a share of the round, above 0 and at most 1"
        )
    if not d.diverged > 1:
        raise InputError(
            f"config.distill.diverged = {d.diverged}: how many times as far as at the start is too"
            " far, above 1"
        )
    if not d.w or not all(found[-1].w[0] <= w <= found[-1].w[1] for w in d.w):
        raise InputError(
            f"config.distill.w = {tuple(d.w)}: one weight or more to judge by, each in all rounds'"
            f" range {span(found[-1].w)}"
        )
    if config.model.w_dim < 4 or config.model.w_dim % 2:
        raise InputError(
            f"config.model.w_dim = {config.model.w_dim}: the student is told w; give an even width,"
            " as 512"
        )
    return tuple(found)


def _plan(number: int, entry: object, where: str) -> Plan:
    try:
        steps, updates, lr, *w = entry
        whole = steps == int(steps) >= 1 and updates == int(updates) >= 1
        good = whole and 0 < lr < math.inf and len(w) == 2 and 0 <= w[0] <= w[1] < math.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        raise InputError(f"{where}: must be {ENTRY}, as (16, 10000, 1e-5, 1.0, 10.0)")
    return Plan(number, int(steps), int(updates), float(lr), (float(w[0]), float(w[1])))


def span(w: tuple[float, float]) -> str:
    """A range as people read it."""
    return f"{w[0]:g}..{w[1]:g}"


def within(w: tuple[float, float], whole: tuple[float, float]) -> bool:
    """Whether a range lies in another."""
    return whole[0] <= w[0] <= w[1] <= whole[1]


def taught(stage: dict) -> tuple[float, float] | None:
    """The range of w that a stage was distilled for, by its cascade.json entry; None where that
    does not say.
    """
    return (stage.get("distilled") or {"w": None})["w"]


def grid_of(config: ConfigDict, steps: int) -> Grid:
    """The released grid of the recipe's stage.

    Raises ValueError where two points would coincide.
    """
    return (
        base_grid(steps)
        if config.schedule.blur == "none"
        else relay_grid(steps, config.schedule.start)
    )


def check_teacher(config: ConfigDict, stage: dict, where: str) -> list[str]:
    """Raise InputError, with the reason, where the stage at `where` (its cascade.json entry) cannot
    teach the first round.

    Returns what is worth saying: an undistilled teacher's own number of steps is no matter, it
    knows every noise level of its range.
    """
    first = plans(config)[0]
    steps = 2 * first.steps
    check_stage(config, stage, where)
    theirs, w = stage["steps"], taught(stage)
    if not stage["model"].get("w_dim", 0):
        return (
            []
            if theirs == steps
            else [f"the teacher's own {theirs} steps become {steps} in round 1"]
        )
    if theirs != steps:
        half = (
            f"begin with {theirs // 2} student steps" if theirs % 2 == 0 else "it cannot be halved"
        )
        raise InputError(
            f"{where} is distilled to {theirs} steps and knows no others, round 1 asks it for"
            f" {steps}; {half}"
        )
    if w and not within(first.w, w):
        raise InputError(f"{where} knows w in {span(w)}, round 1 asks it for {span(first.w)}")
    return []


def check_student(config: ConfigDict, stage: dict, where: str) -> None:
    """Raise InputError, with the reason, where the stage at `where` cannot go on as the first
    round's student. It may learn another w.
    """
    check_stage(config, stage, where)
    if not stage["model"].get("w_dim", 0):
        raise InputError(
            f"{where} is not told w, it is no student; without config.distill.student the first"
            " round begins at its teacher"
        )
    steps = plans(config)[0].steps
    if stage["steps"] != steps:
        raise InputError(
            f"{where} has {stage['steps']} steps, config.distill.rounds begins with {steps}"
        )


def check_stage(config: ConfigDict, stage: dict, where: str) -> None:
    """Raise InputError where the stage at `where` is not of the recipe's kind, start, prediction,
    form or blur, or is told w otherwise.
    """
    relay, w_dim = config.schedule.blur != "none", stage["model"].get("w_dim", 0)
    if stage["kind"] != ("relay" if relay else "base"):
        raise InputError(
            f"{where} is a {stage['kind']} stage, config.schedule says"
            f" {'relay' if relay else 'base'}"
        )
    if relay and stage["start"] != config.schedule.start:
        ours = f"config.schedule.start = {config.schedule.start}"
        tune = (
            "fine-tune it with that start first (cv3jax train,"
            f" --config.schedule.start={config.schedule.start})"
        )
        give = f"give --config.schedule.start={stage['start']}"
        right = give if w_dim else tune  # cv3jax train does not train what is told w
        raise InputError(
            f"{where} was trained from T_r = {stage['start']}, {ours} is out of its distribution:"
            f" {right}"
        )
    theirs = {
        "objective.prediction": stage["prediction"],
        "sample.form": stage["form"],
        "schedule.blur": stage["blur"],
    }
    for field, value in theirs.items():
        section, name = field.split(".")
        if config[section][name] != value:
            raise InputError(
                f"config.{field} = {config[section][name]}, but {where} has {value}; give"
                f" --config.{field}={value}"
            )
    if w_dim not in (0, config.model.w_dim):
        raise InputError(
            f"{where} is told w in {w_dim} dimensions; give --config.model.w_dim={w_dim}"
        )
