"""`cv3jax train`: train one stage of the cascade (autoencoder, base or relay) from a recipe.

A run in an existing workdir resumes.
"""

import shutil
from pathlib import Path
from typing import Any

import jax

from cv3jax.checkpoints import runs
from cv3jax.checkpoints.writing import checkpoint_path
from cv3jax.distributed import processes
from cv3jax.distributed.backend import waiting
from cv3jax.recipes import Source
from cv3jax.training import profiling
from cv3jax.training.agreement import check_agreement
from cv3jax.training.assessing import Assess, announce, make_assess
from cv3jax.training.build import build
from cv3jax.training.changes import Asked, check_allowed, keep_history
from cv3jax.training.evaluations import read_best
from cv3jax.training.inputs import stage_inputs
from cv3jax.training.loop import Cadence, Work, train_loop
from cv3jax.training.parsing import stage_fields
from cv3jax.training.readable_config import keep_config
from cv3jax.training.resume import Resumed, check_resume, hold, record
from cv3jax.training.scoring import OpenScorers
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import Stage
from data_pipeline.io import extras
from data_pipeline.io.files import check_directory
from data_pipeline.io.progress import say
from data_pipeline.io.staging import replace_directory


def run(
    settings: StageSettings,
    workdir: Path,
    resume_from: int | None = None,
    allowed: tuple[str, ...] = (),
    source: Source | None = None,
    scorers: OpenScorers | None = None,
) -> dict:
    """Train the stage of `settings` under `workdir`, and write its cascade. Returns its figures.

    The cascade is `workdir`/cascade. The run resumes from the newest checkpoint there, or from that
    of step `resume_from`; newer ones are then set aside. allowed: fields that may differ from those
    of the run so far. source: the recipe and its overrides, for config.yaml. scorers: opens the
    metrics of train.eval_metrics.

    Raises:
        InputError: a field, file or checkpoint does not fit, or another run holds `workdir`; raised
            before anything is written.
        NonFiniteLossError: the loss or gradient became NaN or infinite.
        StoppedError: SIGTERM or Ctrl-C came; the last step is saved.
        OSError: something could not be written; the checkpoints before it remain.
    """
    extras.check("training", "tensorboardX")
    checkpoint_path(workdir, "--workdir")
    check_directory(workdir, "--workdir")
    with waiting("reading what the run depends on"):
        inputs = stage_inputs(settings)  # in every process
    flags = {"--resume-from": resume_from, "--allow-changed": list(allowed)}
    check_agreement(settings.json, inputs, flags)
    with hold(workdir):
        asked = Asked(settings.json, inputs, allowed)

        def resuming() -> Resumed:
            resumed = check_resume(asked, workdir, resume_from)
            check_allowed(asked, resumed.changes, workdir)
            return resumed

        resumed = Resumed(*processes.first("resume", resuming))
        latest = resumed.step
        stage = build(settings, workdir)
        profile = settings.profile.traced
        profiling.check_profiler(profile)
        announce(settings, inputs)
        assess = evaluation_of(settings, stage, scorers)
        state = stage.create() if latest is None else None  # two states of a large model do not fit
        if processes.main():
            keep_history(workdir, resumed.changes)
            fields = stage_fields(settings.stage)
            keep_config(workdir, settings.json, fields, source, resumed.changes)
            say_source(settings, workdir, latest)
        processes.barrier("set aside")
        cadence = Cadence.of(settings.train, profile)
        work = Work(
            settings.stage,
            stage.like,
            stage.data,
            stage.place,
            stage.step,
            stage.preview(workdir / "previews"),
            assess=assess,
            export=lambda ema: publish(stage, ema, workdir),
            compile=stage.compile,
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
            **publish(stage, state.ema, workdir),
        }
    if best := processes.first("best", lambda: read_best(workdir)):
        figures["best"] = {name: best[name] for name in ("step", "metric", "value")}
    figures["parameters"] = sum(x.size for x in jax.tree.leaves(state.params))
    return figures


def evaluation_of(
    settings: StageSettings, stage: Stage, scorers: OpenScorers | None
) -> Assess | None:
    """Return what evaluations of the stage measure, or None. Raises InputError as they do."""
    if not settings.train.eval_every:
        return None
    pictures = stage.pictures() if settings.train.metrics else None
    return make_assess(settings, stage.held_out(), pictures, scorers)


def publish(stage: Stage, ema: Any, workdir: Path) -> dict:
    """Write the cascade with this EMA, and replace the one before in one step. Returns figures."""
    partial = workdir / "cascade.partial"
    with processes.main_first("cascade"):
        if processes.main():
            shutil.rmtree(partial, ignore_errors=True)
    with waiting(f"writing {workdir / 'cascade'}"):
        figures = stage.export(ema, partial)
    with processes.main_first("published"):
        if processes.main():
            replace_directory(partial, workdir / "cascade")
    return figures


def say_source(settings: StageSettings, workdir: Path, latest: int | None) -> None:
    """Say where the parameters come from; set newer checkpoints aside when resuming.

    So a later stage that was meant to start from an earlier one shows it before hours are spent.
    """
    if latest is None:
        source = f"of {settings.init_from}" if settings.init_from else "from scratch"
        say(f"cv3jax: {settings.stage}: parameters {source}")
        return
    for path in runs.set_aside(workdir / "checkpoints", latest, workdir / "set_aside"):
        say(
            f"cv3jax: resuming from step {latest}; the newer checkpoint was moved to {path}, delete"
            " it when you like"
        )
