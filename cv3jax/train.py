"""`cv3jax train`: one stage of the cascade (autoencoder, base or relay) from a recipe; an existing workdir continues."""

import sys
from pathlib import Path

import jax
from ml_collections import ConfigDict

from cv3jax import checkpoint, recipe
from cv3jax.build import build
from cv3jax.loop import Cadence, train_loop
from data_pipeline.errors import InputError

EXAMPLE = "cv3jax train --config=scenes_base --workdir runs/base --config.data.path=runs/scenes --config.cascade=runs/vae"
RESUMABLE = ("train.", "sample.", "mesh.", "batch.per_device", "data.threads", "init_from")


def run(config: ConfigDict, workdir: Path) -> dict:
    """Train the stage `config` describes under `workdir` and leave its cascade in `workdir`/cascade. Returns its figures.

    Raises:
        InputError: a field, file or checkpoint that does not fit, before anything is written.
        NonFiniteLossError: the loss or gradient became NaN or infinite.
    """
    facts = recipe.to_json(config)
    recipe.check_directory(workdir, "--workdir")
    latest = check_resume(facts, workdir)
    stage = build(config, workdir)
    state = stage.create() if latest is None else None  # two states of a large model do not fit
    workdir.mkdir(parents=True, exist_ok=True)
    cadence = Cadence(config.train.steps, config.train.log_every, config.train.save_every, config.train.preview_every, config.train.keep)
    state, seconds = train_loop(
        name=config.stage, workdir=workdir, state=state, like=stage.like, data=stage.data, place=stage.place, step_fn=stage.step,
        cadence=cadence, config=facts, preview=stage.preview(workdir / "previews"),
    )  # fmt: skip
    figures = {"stage": config.stage, "steps": config.train.steps, "seconds": seconds, **stage.export(state.ema, workdir / "cascade")}
    figures["parameters"] = sum(x.size for x in jax.tree.leaves(state.params))
    return figures


def check_resume(facts: dict, workdir: Path) -> int | None:
    """The step to resume from. Refuses to continue a run with another model, data or optimizer: the result would be neither run's."""
    if not (workdir / "checkpoints").is_dir():
        return None
    manager = checkpoint.open_manager(workdir / "checkpoints")
    try:
        step = manager.latest_step()
        if step is None:
            return None
        changed = [name for name in recipe.differences(facts, checkpoint.read_run(manager, step)["config"])
                   if not name.startswith(RESUMABLE)]  # fmt: skip
    finally:
        manager.close()
    if changed:
        raise InputError(f"{workdir} holds a run with other values of {', '.join(changed)}; restore them or give a new --workdir")
    if step > facts["train"]["steps"]:
        raise InputError(f"{workdir} is at step {step} already, past config.train.steps = {facts['train']['steps']}")
    return step


def main(argv: list[str] | None = None) -> None:
    parser = recipe.parser("train", __doc__, EXAMPLE)
    args, overrides = parser.parse_known_args(argv)
    recipe.check_file(args.json, "--json")
    figures = run(recipe.load(args.config, overrides), args.workdir)
    done = f"{figures['stage']}: {figures['steps']} steps in {figures['seconds']:.0f} s"
    print(f"{done}, checkpoint in {args.workdir}/cascade", file=sys.stderr)
    recipe.write_json(args.json, figures)


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
