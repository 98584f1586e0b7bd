"""`cv3jax train`: train one stage of the cascade (autoencoder, base or relay) from a recipe.

A run in an existing workdir resumes.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cv3jax.checkpoints import runs
from cv3jax.checkpoints.writing import checkpoint_path
from cv3jax.distributed import processes
from cv3jax.distributed.backend import waiting
from cv3jax.fields import Described
from cv3jax.recipes import Source
from cv3jax.training import heartbeat, profiling, wandb_run
from cv3jax.training.agreement import check_agreement
from cv3jax.training.assessing import Assess, announce, make_assess
from cv3jax.training.build import build
from cv3jax.training.changes import RESUMABLE, Asked, check_allowed, keep_history
from cv3jax.training.evaluations import read_best
from cv3jax.training.inputs import stage_inputs
from cv3jax.training.local_saves import check_local
from cv3jax.training.loop import Cadence, Work, train_loop
from cv3jax.training.parsing import stage_fields
from cv3jax.training.readable_config import keep_config
from cv3jax.training.resume import Resumed, check_resume, hold, look, record
from cv3jax.training.scoring import OpenScorers
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import Stage
from cv3jax.training.throughput import Speed, stage_rates
from data_pipeline.io import extras
from data_pipeline.io.errors import counted
from data_pipeline.io.files import check_directory
from data_pipeline.io.progress import say
from data_pipeline.io.staging import replace_directory


class Kind(NamedTuple):
    """What a run trains, where that is not the whole stage of a recipe."""

    build: Callable[[StageSettings, Path], Stage]
    inputs: Callable[
        [StageSettings], dict[str, Any]
    ]  # `stage_inputs` and what else every step reads
    fields: Callable[[str], dict[str, Described]]  # stage → `stage_fields` and its own
    resumable: tuple[str, ...]  # fields that may change when it is resumed
    folder: str  # under the workdir, that the stage's `export` writes
    origin: str  # what is trained and where it comes from, for people
    # where it adapts a trained stage by a small file, which is then written with every checkpoint:
    # (stage, directory) → `Work.before`
    before: Callable[[Any, Path], Callable[[Any], Any]] | None = None


def run(
    settings: StageSettings,
    workdir: Path,
    resume_from: int | None = None,
    allowed: tuple[str, ...] = (),
    source: Source | None = None,
    scorers: OpenScorers | None = None,
    *,
    kind: Kind | None = None,
) -> dict:
    """Train the stage of `settings` under `workdir`, and write its cascade. Returns its figures.

    The cascade is `workdir`/cascade, or what another `kind` of run makes. The run resumes from the
    newest checkpoint there, or from that of step `resume_from`; newer ones are then set aside.
    allowed: fields that may differ from those of the run so far. source: the recipe and its
    overrides, for config.yaml. scorers: opens the metrics of train.eval_metrics.

    Raises:
        InputError: a field, file or checkpoint does not fit, or another run holds `workdir`; raised
            before anything is written.
        NonFiniteLossError: the loss or gradient became NaN or infinite.
        StoppedError: SIGTERM or Ctrl-C came; the last step is saved.
        OSError: something could not be written; the checkpoints before it remain.
    """
    extras.check("training", "tensorboardX")
    wandb_run.check(settings.train.wandb)
    checkpoint_path(workdir, "--workdir")
    check_directory(workdir, "--workdir")
    check_local(settings.train.local)
    kind = kind or whole_stage(settings)
    with waiting("reading what the run depends on"):
        inputs = kind.inputs(settings)  # in every process
    flags = {"--resume-from": resume_from, "--allow-changed": list(allowed)}
    check_agreement(settings.json, inputs, flags)
    with hold(workdir):
        asked = Asked(settings.json, inputs, allowed, kind.resumable)
        known = look(workdir)

        def resuming() -> Resumed:
            resumed = check_resume(asked, workdir, resume_from, known=known)
            check_allowed(asked, resumed.changes, workdir)
            return resumed

        resumed = Resumed(*processes.first("resume", resuming))
        latest = resumed.step
        stage = kind.build(settings, workdir)
        profile = settings.profile.traced
        profiling.check_profiler(profile)
        announce(settings, inputs)
        assess = evaluation_of(settings, stage, scorers)
        state = stage.create() if latest is None else None  # two states of a large model do not fit
        if processes.main():
            heartbeat.begin()
            keep_history(workdir, resumed.changes)
            fields = kind.fields(settings.stage)
            keep_config(workdir, settings.json, fields, source, resumed.changes)
            say_warmup(settings)
            say_source(f"{settings.stage}: {kind.origin}", workdir, latest)
        processes.barrier("set aside")
        cadence = Cadence.of(settings.train, profile, settings.optim.posthoc)
        work = Work(
            settings.stage,
            stage.like,
            stage.data,
            stage.place,
            stage.step,
            stage.preview(workdir / "previews"),
            assess=assess,
            export=lambda ema: publish(stage, ema, workdir, kind.folder),
            compile=stage.compile,
            speed=Speed(
                settings.batch.size,
                stage.flops,
                stage_rates(settings.optim, settings.train.steps),
            ),
            before=kind.before and kind.before(stage, workdir / "previews"),
            exports_all=kind.before is not None,
        )
        kept = record(asked, resumed, stage.cascade)
        state, seconds = train_loop(work, workdir, state, cadence, kept, resume_from=resume_from)
        total = sum(seconds.values())
        figures = {
            "stage": settings.stage,
            "steps": settings.train.steps,
            "seconds": total,
            "goodput": seconds["step"] / total,
        }
        figures |= {
            **{f"seconds_{kind}": value for kind, value in seconds.items()},
            **publish(stage, state.ema, workdir, kind.folder),
        }
    if best := processes.first("best", lambda: read_best(workdir)):
        figures["best"] = {name: best[name] for name in ("step", "metric", "value")}
    figures["parameters"] = sum(x.size for x in jax.tree.leaves(state.params))
    return figures


def whole_stage(settings: StageSettings) -> Kind:
    """Return the kind of a run that trains all parameters of a stage."""
    source = f"of {settings.init_from}" if settings.init_from else "from scratch"
    return Kind(build, stage_inputs, stage_fields, RESUMABLE, "cascade", f"parameters {source}")


def evaluation_of(
    settings: StageSettings, stage: Stage, scorers: OpenScorers | None
) -> Assess | None:
    """Return what evaluations of the stage measure, or None. Raises InputError as they do."""
    if not settings.train.eval_every:
        return None
    pictures = stage.pictures() if settings.train.metrics else None
    return make_assess(settings, stage.held_out(), pictures, scorers)


def publish(stage: Stage, ema: Any, workdir: Path, folder: str = "cascade") -> dict:
    """Write what the stage exports of this EMA, and replace the one before in one step.

    Returns figures. folder: where, under the workdir.
    """
    partial = workdir / f"{folder}.partial"
    with processes.main_first("cascade"):
        if processes.main():
            shutil.rmtree(partial, ignore_errors=True)
    with waiting(f"writing {workdir / folder}"):
        figures = stage.export(ema, partial)
    with processes.main_first("published"):
        if processes.main():
            replace_directory(partial, workdir / folder)
    return figures


def say_warmup(settings: StageSettings) -> None:
    """Say where the run ends before its learning rate has risen to config.optim.lr."""
    warmup, steps = settings.optim.warmup, settings.train.steps
    if warmup >= steps > 1:
        say(
            f"cv3jax: config.optim.warmup = {warmup}: of {counted(steps, 'step')}, none reaches the"
            " learning rate config.optim.lr"
        )


def say_source(origin: str, workdir: Path, latest: int | None) -> None:
    """Say where the parameters come from; set newer checkpoints aside when resuming.

    So a later stage that was meant to start from an earlier one shows it before hours are spent.
    """
    if latest is None:
        say(f"cv3jax: {origin}")
        return
    for path in runs.set_aside(workdir / "checkpoints", latest, workdir / "set_aside"):
        say(
            f"cv3jax: resuming from step {latest}; the newer checkpoint was moved to {path}, delete"
            " it when you like"
        )
