"""What the training loop is given: how often it does what, and the functions of a run."""

import dataclasses
from collections.abc import Callable
from typing import Any

from cv3jax.training.assessing import Assess
from cv3jax.training.changes import RESUMABLE
from cv3jax.training.settings import TrainSettings
from cv3jax.training.skipping import NOTHING, Skip
from cv3jax.training.throughput import Speed
from cv3jax.training.train_settings import Local
from cv3jax.training.train_step import TrainState


@dataclasses.dataclass(frozen=True)
class Cadence:
    """The length of a run, and how often it does what, in steps.

    0 means only at the end; for previews, never.
    """

    steps: int
    log: int
    save: int
    preview: int
    keep: int  # how many of the newest checkpoints
    profile: range | None = None  # steps to trace
    keep_every: int = 0  # checkpoints that stay
    export: int = 0  # exports of the cascade
    skip: Skip = NOTHING  # updates to skip
    eval: int = 0  # evaluations; also at the end
    posthoc: int = 0  # snapshots of power-function averages, over the run
    best: str = ""  # the figure of theirs by which a checkpoint stays
    local: Local = Local()  # noqa: RUF009 (a named tuple cannot change)
    wandb: str = ""  # project of Weights & Biases

    @classmethod
    def of(cls, train: TrainSettings, profile: range | None, posthoc: int = 0) -> "Cadence":
        """Return the cadence of a recipe's train section."""
        return cls(
            train.steps,
            train.log_every,
            train.save_every,
            train.preview_every,
            train.keep,
            profile,
            train.keep_every,
            train.export_every,
            train.skip,
            train.eval_every,
            posthoc,
            train.best,
            train.local,
            train.wandb,
        )


@dataclasses.dataclass(frozen=True)
class Work:
    """What is trained: the state's shapes, its data, and the functions of its steps."""

    name: str
    like: Any  # the state's shapes and shardings
    data: Any  # the loader's iterator
    place: Callable[[Any], Any]  # a batch → arrays on the mesh
    step: Callable[[TrainState, Any], tuple[TrainState, dict]]  # (state, batch) → (state, metrics)
    preview: Callable[[Any, int], Any] | None = None  # (ema, step) → uint8 [H, W, 3]
    # like a preview, but part of the training: it runs before the checkpoint, and its errors end
    # the run
    evaluate: Callable[[Any, int], Any] | None = None
    assess: Assess | None = None  # what evaluations measure
    export: Callable[[Any], Any] | None = None  # (ema) → the cascade on disk
    compile: Callable[[], None] | None = None  # compiles what `step` calls, before the first step
    # (ema, None where it is not at hand) → a preview of what is trained as it was before, or None
    # where there is one already
    before: Callable[[Any], Any] | None = None
    exports_all: bool = False  # whether every checkpoint has its export
    speed: Speed = Speed()  # noqa: RUF009 (a named tuple cannot change)
    rate: str = "optim.lr"  # the recipe's field with the learning rate
    resumable: tuple[str, ...] = RESUMABLE  # fields that may change when the run is resumed
    # makes the first state, where none was given and no checkpoint is restored
    begin: Callable[[], TrainState] | None = None
