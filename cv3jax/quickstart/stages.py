"""The training steps of a quickstart, each from its recipe and done once.

A finished step is not done again, and a killed one resumes.
"""

import functools
from collections.abc import Callable
from pathlib import Path

from cv3jax import recipes
from cv3jax.checkpoints import runs
from cv3jax.distillation import run as distilling
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.training import run as training
from cv3jax.training.parsing import parse_stage
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import read_json, write_json
from data_pipeline.io.progress import say
from data_pipeline.scenes import dataset

STAGES = ("vae", "base", "relay")
# stage → the cascade in which it is distilled
DISTILLED = {"base": "relay", "relay": "distill_base"}


def build_data(directory: Path, *, count: int, seed: int) -> None:
    """Write records of training scenes, unless they are there already.

    Held-out scenes are drawn when they are judged.
    """
    if not directory.exists():
        dataset.build(directory, dataset.SceneSettings(count, seed, "train"))


def small_recipe(
    name: str, workdir: Path, cascade: str | None, *, tiny: bool, seed: int
) -> tuple[str, list[str]]:
    """Return (the recipe of a step of this run, its overrides), for `recipes.load`.

    Its frozen parts are those of `cascade`, a directory of `workdir`.
    """
    fields = [f"seed={seed}", f"data.path={workdir / 'data' / 'train'}", "train.eval_every=0"]
    fields += [f"cascade={workdir / cascade}"] if cascade else []
    # the smallest that can be judged; the relay's is at twice the zoom
    fields += ["data.image_size=64"] if tiny and cascade else []
    return f"scenes_{name}{':tiny' if tiny else ''}", [f"--config.{field}" for field in fields]


def finish(place: Path, work: Callable[[Path], dict]) -> dict:
    """Return the figures of `work(place)`, which is done once.

    A finished step is not touched again, and an unfinished one resumes.
    """
    finished = place / "figures.json"
    if finished.exists():
        return read_json(finished)
    try:
        figures = work(place)
    except runs.DamagedError as e:
        older = (
            f"the stage resumes from step {e.intact}"
            if e.intact is not None
            else "the stage starts over"
        )
        raise InputError(
            f"{e.what}; restore the file, or remove that directory, and {older}"
        ) from e
    write_json(finished, figures)
    return figures


def train_stage(stage: str, workdir: Path, *, tiny: bool, seed: int) -> dict:
    """Train one stage from its recipe. Returns its figures."""
    before = dict(zip(STAGES, (None, *STAGES), strict=False))[stage]
    name, fields = small_recipe(stage, workdir, before, tiny=tiny, seed=seed)
    fields += [f"--config.init_from={workdir / 'base'}"] if stage == "relay" else []
    fields += ["--config.train.preview_every=0"]  # the report has pictures of its own
    config = recipes.load(name, fields)
    settings, source = parse_stage(config), recipes.source(name, config)
    return finish(workdir / stage, lambda place: training.run(settings, place, source=source))


def distil_stages(workdir: Path, *, tiny: bool, seed: int) -> dict[str, dict]:
    """Distil base and relay from their recipes. Returns the figures of each."""
    figures = {}
    for stage, cascade in DISTILLED.items():
        say(f"quickstart: {stage}, distilled")
        name, fields = small_recipe(f"distill_{stage}", workdir, cascade, tiny=tiny, seed=seed)
        config = recipes.load(name, fields)
        settings, source = parse_distillation(config), recipes.source(name, config)
        figures[stage] = finish(
            workdir / f"distill_{stage}",
            functools.partial(distilling.run, settings, source=source),
        )
    return figures


def rounds_of(figures: dict) -> dict[int, str]:
    """Return {steps: the directory of that round}, the last round first.

    figures: of a distillation.
    """
    return {
        one["steps"]: f"rounds/{one['round']}_{one['steps']}_steps"
        for one in reversed(figures["rounds"])
    }


def paired_rounds(
    workdir: Path, figures: dict[str, dict]
) -> dict[tuple[int, int], tuple[Path, Path]]:
    """Return {(base steps, relay steps): the cascades of those rounds}.

    The last rounds of both are paired, then those before them. The last pair comes last.
    """
    both = [
        [
            (steps, workdir / f"distill_{stage}" / place / "cascade")
            for steps, place in rounds_of(figures[stage]).items()
        ]
        for stage in DISTILLED
    ]
    return {(b, r): (base, relay) for (b, base), (r, relay) in list(zip(*both, strict=True))[::-1]}
