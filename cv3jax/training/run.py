"""`cv3jax train`: one stage of the cascade (autoencoder, base or relay) from a recipe; an existing
workdir continues.
"""

import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cv3jax import recipes
from cv3jax.checkpoints import runs
from cv3jax.distributed import processes
from cv3jax.training import profiling
from cv3jax.training.build import build
from cv3jax.training.loop import Cadence, train_loop
from cv3jax.training.resume import check_resume, hold
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory


def run(config: ConfigDict, workdir: Path, resume_from: int | None = None) -> dict:
    """Train the stage `config` describes under `workdir` and leave its cascade in
    `workdir`/cascade. Returns its figures.

    It goes on from the newest checkpoint there, or from that of step `resume_from`; newer ones are
    then set aside.

    Raises:
        InputError: a field, file or checkpoint that does not fit, or another run in `workdir`;
            before anything is written.
        NonFiniteLossError: the loss or gradient became NaN or infinite.
        StoppedError: SIGTERM or Ctrl-C came; the last step is saved.
        OSError: something could not be written; the checkpoints before it remain.
    """
    check_directory(workdir, "--workdir")
    if "distill" in config:
        raise InputError("this recipe is a distillation's: cv3jax distill runs it")
    with hold(workdir):
        facts = recipes.to_json(config)
        latest = processes.first("resume", lambda: check_resume(facts, workdir, resume_from))
        stage = build(config, workdir)
        profile = profiling.steps_of(config.profile.steps) if "profile" in config else None
        profiling.check(profile)
        state = stage.create() if latest is None else None  # two states of a large model do not fit
        # a later stage that was to go on from an earlier one shows it before its hours are spent
        if latest is None and processes.main():
            print(
                f"cv3jax: {config.stage}: parameters"
                f" {f'of {config.init_from}' if config.init_from else 'from scratch'}",
                file=sys.stderr,
            )
        if latest is not None and processes.main():
            for path in runs.set_aside(workdir / "checkpoints", latest, workdir / "set_aside"):
                print(
                    f"cv3jax: going on from step {latest}; the newer checkpoint is now {path},"
                    " delete it when you like",
                    file=sys.stderr,
                )
        processes.barrier("set aside")
        every = config.train
        cadence = Cadence(
            every.steps, every.log_every, every.save_every, every.preview_every, every.keep, profile
        )
        state, seconds = train_loop(
            name=config.stage,
            workdir=workdir,
            state=state,
            like=stage.like,
            data=stage.data,
            place=stage.place,
            step_fn=stage.step,
            cadence=cadence,
            config=facts,
            preview=stage.preview(workdir / "previews"),
            resume_from=resume_from,
        )
        total = sum(seconds.values())
        figures = {
            "stage": config.stage,
            "steps": config.train.steps,
            "seconds": total,
            "goodput": seconds["step"] / total,
        }
        figures |= {
            **{f"seconds_{kind}": value for kind, value in seconds.items()},
            **stage.export(state.ema, workdir / "cascade"),
        }
    figures["parameters"] = sum(x.size for x in jax.tree.leaves(state.params))
    return figures
