"""What a recipe says of the length of a run, and of how often it does what, typed and checked."""

import dataclasses
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from cv3jax.fields import PATH, SWITCH, TEXT, Rule, check, field, number, require, whole

if TYPE_CHECKING:
    from cv3jax.training.skipping import Skip

HELD_OUT, PICTURES = "heldout", "pictures"  # how the names of an evaluation's figures begin
_SPIKE = Rule(
    "float",
    "0, or above 1",
    number(0).typed,
    lambda value: value == 0 or number(above=1).fits(value),
    (-1.0, 1.0),
)
_TEXT = dataclasses.replace(TEXT, right="a path, scenes, or empty")
_NAMES = dataclasses.replace(TEXT, right="names of metrics with commas between, or empty")
_PROJECT = Rule(
    "str",
    "PROJECT or ENTITY/PROJECT, or empty",
    TEXT.typed,
    lambda value: re.fullmatch(r"([\w.-]{1,128}/)?[\w.-]{1,128}|", value, re.ASCII) is not None,
    ("a/b/c",),
)
_FIGURE = Rule(
    "str",
    f"a name that begins with {HELD_OUT}/ or {PICTURES}/, or empty",
    TEXT.typed,
    lambda value: not value or value.startswith((f"{HELD_OUT}/", f"{PICTURES}/")),
    ("loss",),
)


class Local(NamedTuple):
    """How often local checkpoints are written, and where."""

    every: int = 0  # steps; 0: never
    folder: Path | None = None  # on each machine's own disk; with 0, old ones are removed there


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How long a run is and how often it does what, in steps."""

    log_every: int = field("Steps between two lines of metrics; 0: only at the end.", whole(0))
    save_every: int = field("Steps between two checkpoints; 0: only at the end.", whole(0))
    preview_every: int = field("Steps between two previews; 0: only at the end.", whole(0))
    keep: int = field("How many of the newest checkpoints are kept.", whole(1))
    # a distillation's rounds have their own
    steps: int | None = field("Updates of the run.", whole(1), None)
    keep_every: int = field(
        "One checkpoint in every so many steps is never deleted; 0: none.", whole(0), 0
    )
    export_every: int = field(
        "Steps between two writes of WORKDIR/cascade; 0: only at the end.", whole(0), 0
    )
    skip_nonfinite: int = field(
        "How many updates in a row may be skipped because their loss or gradient is not finite; 0:"
        " the first such update ends the run.",
        whole(0),
        0,
    )
    skip_spike: float = field(
        "An update is also skipped if its gradient is this many times as long as those of the last"
        " updates; needs skip_nonfinite above 0; 0: off.",
        _SPIKE,
        0.0,
    )
    eval_every: int = field(
        "Steps between two evaluations: the held-out loss, and scores of fixed pictures. One more"
        " is at the end; 0: none.",
        whole(0),
        0,
    )
    eval_data: str | None = field(
        "Record directory of the held-out pictures, which are not trained on, or its address, with"
        " data.cache_dir; none: no held-out loss.",
        PATH,
        None,
    )
    eval_records: int = field("How many of the records of eval_data are evaluated.", whole(1), 256)
    eval_metrics: str = field(
        "Metrics of the fixed pictures, such as judge,fdlite; empty: none are drawn.", _NAMES, ""
    )
    eval_pictures: int = field("How many fixed pictures are drawn and scored.", whole(1), 16)
    eval_prompts: str = field(
        "Prompts of the fixed pictures: a file with one a line, or scenes for captions that no"
        " scene of the training split has; empty: the captions of eval_data, without it those of"
        " the previews.",
        _TEXT,
        "",
    )
    eval_weights: str | None = field(
        "Directory of the metrics' weights, as `cv3jax evaluate --weights` takes it.", PATH, None
    )
    module_norms: bool = field(
        "Whether the metrics have the norm of the gradient of each module of the network too.",
        SWITCH,
        False,
    )
    best: str = field(
        "Figure of the evaluations by which the best checkpoint is kept, such as heldout/loss or"
        " pictures/judge.all; empty: none.",
        _FIGURE,
        "",
    )
    local_every: int = field(
        "Steps between two checkpoints on each machine's own disk, from which a run that was killed"
        " resumes if it finds its machines again; 0: none.",
        whole(0),
        0,
    )
    local_dir: str | None = field(
        "Directory on each machine's own disk for the checkpoints of local_every.", PATH, None
    )
    wandb: str = field(
        "Project of Weights & Biases that gets the metrics and previews too, such as team/base;"
        " empty: none.",
        _PROJECT,
        "",
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "train")
        spike = self.skip_spike
        right = "0, or above 1 with train.skip_nonfinite above 0"
        require(spike == 0 or self.skip_nonfinite > 0, "train.skip_spike", spike, right)
        every, right = self.local_every, "0 without train.local_dir, or give train.local_dir"
        require(not every or bool(self.local_dir), "train.local_every", every, right)
        if self.best:
            self._check_best()

    def _check_best(self) -> None:
        """Raise InputError unless each evaluation is at a step that is saved, and has `best`."""
        every, save = self.eval_every, self.save_every
        right = (
            f"a multiple of train.save_every = {save}, because the best checkpoint is a saved one"
        )
        if not save:
            right = "0 with train.save_every = 0, or give train.save_every"
        require(every > 0 and save > 0 and every % save == 0, "train.eval_every", every, right)
        kind, _, rest = self.best.partition("/")
        if kind == HELD_OUT:
            require(bool(self.eval_data), "train.best", self.best, "given with train.eval_data")
        else:
            name, known = rest.partition(".")[0], ", ".join(self.metrics) or "none"
            right = f"a figure of a metric of train.eval_metrics ({known})"
            require(name in self.metrics, "train.best", self.best, right)

    @property
    def metrics(self) -> tuple[str, ...]:
        """Return the names of the metrics, in order."""
        return tuple(name.strip() for name in self.eval_metrics.split(",") if name.strip())

    @property
    def local(self) -> Local:
        """Return how often local checkpoints are written, and where."""
        return Local(self.local_every, Path(self.local_dir) if self.local_dir else None)

    @property
    def skip(self) -> "Skip":
        """Return which updates are skipped."""
        from cv3jax.training.skipping import Skip

        return Skip(self.skip_nonfinite, self.skip_spike)
