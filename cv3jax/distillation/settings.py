"""What a distillation's recipe says, typed and checked: its rounds, and the stage they shorten."""

import copy
import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, NamedTuple

from cv3jax.distillation import TARGETS
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError

if TYPE_CHECKING:  # a wrong field is refused without jax
    from cv3jax.diffusion.schedule import Grid

ENTRY = "(student steps, updates, learning rate, least w, greatest w)"
WHERE = "config.distill.rounds"


class RoundSettings(NamedTuple):
    """A round: a student of `steps` is taught by a teacher of twice as many."""

    number: int  # from 1
    steps: int
    updates: int
    lr: float
    w: tuple[float, float]  # range of guidance weights

    @property
    def name(self) -> str:
        return f"{self.number}_{self.steps}_steps"


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """All that a recipe says of a distillation (`configs/common_distillation.py`, `distil`).

    Raises:
        InputError: no rounds, a field out of range, steps that do not halve, or a
            w that the round before did not learn.
    """

    stage: StageSettings
    rounds: tuple[RoundSettings, ...]
    target: str
    ema: float
    w: tuple[float, ...]  # what the rounds are judged by
    diverged: float
    student: str | None = None

    def __post_init__(self):
        stage = self.stage
        if stage.objective.text_drop:
            raise InputError(
                f"config.objective.text_drop = {stage.objective.text_drop}: a student is taught"
                " with its text, give 0"
            )
        if stage.train.export_every:
            raise InputError(
                f"config.train.export_every = {stage.train.export_every}: each round of a"
                " distillation leaves its cascade, give 0"
            )
        if not self.rounds:
            raise InputError(f"{WHERE} is empty; give one or more of {ENTRY}")
        check_halving(self.rounds)
        if self.target not in TARGETS:
            named = ", ".join(TARGETS)
            raise InputError(f"config.distill.target = {self.target!r}: one of {named}")
        if not 0 < self.ema <= 1:
            raise InputError(
                f"config.distill.ema = {self.ema}: a share of the round, above 0 and at most 1"
            )
        if not self.diverged > 1:
            raise InputError(
                f"config.distill.diverged = {self.diverged}: how many times as far as at the start"
                " is too far, above 1"
            )
        low, high = self.rounds[-1].w
        if not self.w or not all(low <= w <= high for w in self.w):
            raise InputError(
                f"config.distill.w = {tuple(self.w)}: one weight or more to judge by, each in all"
                f" rounds' range {span((low, high))}"
            )
        if self.w_dim < 4 or self.w_dim % 2:
            raise InputError(
                f"config.model.w_dim = {self.w_dim}: the student is told w; give an even width, as"
                " 512"
            )
        # last, for it takes jax
        teacher = 2 * self.rounds[0].steps
        try:
            self.grid(teacher)
        except ValueError as e:
            raise InputError(f"{WHERE}: a teacher of {teacher} steps: {e}") from e

    @property
    def w_dim(self) -> int:
        """The width of the student's embedding of w."""
        return self.stage.model["w_dim"]

    def grid(self, steps: int) -> "Grid":
        """The grid of the recipe's stage, with its schedule's blur.

        Raises ValueError where two points would coincide.
        """
        from cv3jax.diffusion.schedule import base_grid, relay_grid

        schedule = self.stage.schedule
        if not schedule.relay:
            return base_grid(steps)
        return relay_grid(steps, schedule.start, schedule.blur)

    def of_round(self, number: int) -> "DistillSettings":
        """The settings of one round: its own entry, updates and seed, so that its data come in
        another order than those of the rounds before.
        """
        stage, round = self.stage, self.rounds[number - 1]
        json = copy.deepcopy(stage.json)
        json["distill"]["rounds"] = [json["distill"]["rounds"][number - 1]]
        json["train"]["steps"], json["seed"] = round.updates, stage.seed + number
        train = dataclasses.replace(stage.train, steps=round.updates)
        stage = dataclasses.replace(stage, seed=stage.seed + number, train=train, json=json)
        return dataclasses.replace(self, stage=stage, rounds=(round,))


def check_halving(rounds: tuple[RoundSettings, ...]) -> None:
    """Raise InputError unless each round halves the steps of the one before, and has no w that
    that one did not learn.
    """
    for before, round in itertools.pairwise(rounds):
        if round.steps * 2 != before.steps:
            raise InputError(
                f"{WHERE}: {before.steps} steps are halved to {before.steps / 2:g}, not to"
                f" {round.steps}"
            )
        if not within(round.w, before.w):
            knows = f"but its teacher, round {before.number}, knows {span(before.w)}"
            raise InputError(f"{WHERE}: round {round.number} has w in {span(round.w)}, {knows}")


def parse_round(number: int, entry: object) -> RoundSettings:
    """A round from its entry in config.distill.rounds. Raises InputError on one that is none."""
    try:
        steps, updates, lr, *w = entry
        whole = steps == int(steps) >= 1 and updates == int(updates) >= 1
        good = whole and 0 < lr < math.inf and len(w) == 2 and 0 <= w[0] <= w[1] < math.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        where = f"{WHERE}[{number - 1}] = {entry}"
        raise InputError(f"{where}: must be {ENTRY}, as (16, 10000, 1e-5, 1.0, 10.0)")
    return RoundSettings(number, int(steps), int(updates), float(lr), (float(w[0]), float(w[1])))


def span(w: tuple[float, float]) -> str:
    """A range as people read it."""
    return f"{w[0]:g}..{w[1]:g}"


def within(w: tuple[float, float], whole: tuple[float, float]) -> bool:
    """Whether a range lies in another."""
    return whole[0] <= w[0] <= w[1] <= whole[1]
