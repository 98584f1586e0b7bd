"""What a distillation's recipe says, typed and checked: its rounds, and the stage they shorten."""

import copy
import dataclasses
import itertools
import math
from typing import TYPE_CHECKING, Any, NamedTuple

from cv3jax.diffusion.points import T, check_points, released_points
from cv3jax.distillation import TARGETS
from cv3jax.fields import (
    PATH,
    Described,
    Rule,
    check,
    each,
    exactly,
    field,
    number,
    one_of,
    require,
    whole,
)
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError, counted

if TYPE_CHECKING:
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
        """Return the round's name, which is that of its directory."""
        return f"{self.number}_{self.steps}_steps"


def _are_rounds(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(one, RoundSettings) for one in value)


_WIDTH = Rule(
    "int",
    "an even number, at least 4",
    lambda value: isinstance(value, int),
    lambda value: value >= 4 and value % 2 == 0,
    (2, 5),
)
# the stage's fields that mean something else in a distillation, or of which it allows less
OWN = {
    "stage": Described("Name of the stage in the cascade.", one_of("base", "relay")),
    "objective.text_drop": Described(
        "Share of captions that are left out; a student is always trained with its captions.",
        exactly(0, "float"),
    ),
    "optim.posthoc": Described(
        "Snapshots of averages for `cv3jax ema`; always 0, because a student is not averaged so.",
        exactly(0, "int"),
    ),
    "train.export_every": Described(
        "Steps between two writes of WORKDIR/cascade; always 0, because each round writes it at its"
        " end.",
        exactly(0, "int"),
    ),
    "model.w_dim": Described("Width of the student's guidance-weight embedding.", _WIDTH),
    "train.preview_every": Described(
        "Updates between two evaluations inside a round; 0: only at its end.", whole(0)
    ),
    "schedule.zero_snr": Described(
        "Whether the last index has no signal at all; a distillation has the released noise.",
        exactly(False, "bool"),
    ),
    "sample.guidance_rescale": Described(
        "Share of guidance that is rescaled; always 0, because a student learns guidance as it is.",
        exactly(0, "float"),
    ),
    "sample.steps": Described(
        "Steps of the full sampler, which every round is measured against.", whole(1, T)
    ),
}


@dataclasses.dataclass(frozen=True)
class DistillSettings:
    """All that a recipe says of a distillation (`configs/common_distillation.py`, `distil`).

    Raises:
        InputError: no rounds, a field out of range, steps that do not halve, or a
            w that the round before did not learn.
    """

    stage: StageSettings
    rounds: tuple[RoundSettings, ...] = field(
        "The rounds, in order; each halves the steps of the round before, and its range of w is"
        " within that round's.",
        Rule(
            "tuple of rounds",
            f"one or more of {ENTRY}",
            _are_rounds,
            lambda value: len(value) > 0,
            ((),),
        ),
    )
    target: str = field(
        "How a student is compared with its teacher: by where a step lands, or by its x0.",
        one_of(*TARGETS),
    )
    ema: float = field("Share of a round over which weights are averaged.", number(above=0, high=1))
    w: tuple[float, ...] = field(
        "Guidance weights at which the rounds are evaluated, each in the last round's range.",
        each(number(0)),
    )
    diverged: float = field(
        "A round ends with an error when its student is this many times as far from the full"
        " sampler as at the round's start.",
        number(above=1),
    )
    student: str | None = field(
        "Checkpoint of a student with the first round's number of steps, which is trained further;"
        " none: the first round starts from its teacher's weights.",
        PATH,
        None,
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "distill")
        stage = self.stage
        for name, value in (
            ("stage", stage.stage),
            ("objective.text_drop", stage.objective.text_drop),
            ("optim.posthoc", stage.optim.posthoc),
            ("train.export_every", stage.train.export_every),
            ("model.w_dim", self.w_dim),
            ("sample.guidance_rescale", stage.sample.guidance_rescale),
        ):
            OWN[name].check(name, value)
        check_halving(self.rounds)
        teacher = 2 * self.rounds[0].steps
        start = stage.schedule.start if stage.relay else T
        try:
            check_points(released_points(teacher, start))
        except ValueError as e:
            raise InputError(
                f"{WHERE}: round 1 needs a teacher of {teacher} steps, but a sampler that starts at"
                f" t = {start} has at most {start}; begin with fewer steps"
            ) from e
        low, high = self.rounds[-1].w
        right = f"one or more, each in the last round's range {span((low, high))}"
        object.__setattr__(self, "w", tuple(self.w))
        require(all(low <= w <= high for w in self.w), "distill.w", self.w, right)

    @property
    def w_dim(self) -> int:
        """The width of the student's embedding of w."""
        return self.stage.model["w_dim"]

    def grid(self, steps: int) -> "Grid":
        """Return the grid of the recipe's stage, with its schedule's blur.

        Raises ValueError where two points would coincide.
        """
        from cv3jax.diffusion.schedule import base_grid, relay_grid

        schedule = self.stage.schedule
        if not schedule.relay:
            return base_grid(steps)
        return relay_grid(steps, schedule.start, schedule.blur)

    def of_round(self, number: int) -> "DistillSettings":
        """Return the settings of one round: its own entry, updates and seed.

        By its own seed its data come in another order than those of the rounds before.
        """
        stage, round = self.stage, self.rounds[number - 1]
        json = copy.deepcopy(stage.json)
        json["distill"]["rounds"] = [json["distill"]["rounds"][number - 1]]
        json["train"]["steps"], json["seed"] = round.updates, stage.seed + number
        train = dataclasses.replace(stage.train, steps=round.updates)
        stage = dataclasses.replace(stage, seed=stage.seed + number, train=train, json=json)
        return dataclasses.replace(self, stage=stage, rounds=(round,))


def check_halving(rounds: tuple[RoundSettings, ...]) -> None:
    """Raise InputError unless each round halves the steps of the round before, within its w."""
    for before, round in itertools.pairwise(rounds):
        if round.steps * 2 != before.steps:
            raise InputError(
                f"{WHERE}: round {round.number} has {counted(round.steps, 'step')}, but must have"
                f" half of the {before.steps} of the round before"
            )
        if not within(round.w, before.w):
            knows = f"but its teacher, round {before.number}, was trained for {span(before.w)} only"
            raise InputError(
                f"{WHERE}: round {round.number} has w in {span(round.w)}, {knows}; give a range"
                " within it"
            )


def parse_round(number: int, entry: object) -> RoundSettings:
    """Return a round from its entry in config.distill.rounds.

    Raises InputError on an entry that is no round.
    """
    try:
        steps, updates, lr, *w = entry
        whole = steps == int(steps) >= 1 and updates == int(updates) >= 1
        good = whole and 0 < lr < math.inf and len(w) == 2 and 0 <= w[0] <= w[1] < math.inf
    except (TypeError, ValueError):
        good = False
    if not good:
        where = f"{WHERE}[{number - 1}] = {entry}"
        raise InputError(f"{where}: must be {ENTRY}, such as (16, 10000, 1e-5, 1.0, 10.0)")
    return RoundSettings(number, int(steps), int(updates), float(lr), (float(w[0]), float(w[1])))


def span(w: tuple[float, float]) -> str:
    """Return a range as people read it."""
    return f"{w[0]:g}..{w[1]:g}"


def within(w: tuple[float, float], whole: tuple[float, float]) -> bool:
    """Return whether a range is within another."""
    return whole[0] <= w[0] <= w[1] <= whole[1]
