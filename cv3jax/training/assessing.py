"""What an evaluation measures: held-out figures, and scores of fixed pictures."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.distributed import processes
from cv3jax.training.agreement import LOADING
from cv3jax.training.heldout import check_apart
from cv3jax.training.measures import HeldOut, Pictures
from cv3jax.training.scoring import OpenScorers
from cv3jax.training.settings import StageSettings
from cv3jax.training.train_settings import PICTURES
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.progress import say
from data_pipeline.records.digest import dataset_content, json_digest

PROBES = 4  # pictures that each metric scores at the start
# sections of a recipe on which the figures depend, and the fields of `data` on which none does
SECTIONS = ("data", "objective", "schedule", "sample", "distill")
FREE = (
    *(name.removeprefix("data.") for name in LOADING),
    "path",
    "max_damaged",
    "cache",
    "buckets",
    "shuffle",
)


@dataclasses.dataclass(frozen=True)
class Assess:
    """What an evaluation measures.

    Attributes:
        figures: (EMA) → {name: value}; all processes call it and get the same.
        better: name → "higher" or "lower".
        of: identifies records, prompts and metrics; figures of another one cannot be compared.
    """

    figures: Callable[[Any], dict[str, float]]
    better: dict[str, str]
    of: str


def make_assess(
    settings: StageSettings,
    held_out: HeldOut | None,
    pictures: Pictures | None,
    open_scorers: OpenScorers | None,
) -> Assess | None:
    """Return what the recipe's evaluations measure, or None where that is nothing.

    Each metric scores a few pictures of noise, so that what it lacks is noticed before the first
    step. Raises InputError as `open_scorers` does, and where train.best is none of the figures.
    """
    better, score, metrics = dict(held_out.better) if held_out else {}, None, []
    if pictures:
        score, opened = _scorer(settings, pictures, open_scorers)
        better, metrics = better | opened["better"], opened["protocols"]
    if not better:
        return None
    best = settings.train.best
    if best and best not in better:
        raise InputError(f"config.train.best = {best}: must be one of {', '.join(better)}")

    def figures(ema: Any) -> dict[str, float]:
        made = held_out.figures(ema) if held_out else {}
        if pictures:
            images = pictures.draw(ema)
            made |= _shared(lambda: score(images, pictures.prompts))
        return made

    return Assess(figures, better, identity(settings, pictures, metrics))


def _shared(score: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return what process 0 scores, in all processes.

    Raises RuntimeError in all of them where scoring fails, so that none waits for the others.
    """

    def scored() -> dict:
        try:
            return {"figures": score()}
        except Exception as e:
            return {"why": f"{type(e).__name__}: {first_line(e)}"}

    found = processes.first("scores", scored)
    if "why" in found:
        raise RuntimeError(found["why"])
    return found["figures"]


def announce(settings: StageSettings, inputs: dict[str, Any]) -> None:
    """Say where evaluations have no held-out loss. inputs: `stage_inputs`.

    Raises InputError where train.eval_data is trained on.
    """
    if not settings.train.eval_every:
        return
    check_apart(settings, inputs)
    if processes.main() and not settings.train.eval_data:
        why = "because config.train.eval_data is not set"
        say(f"cv3jax: {settings.stage}: no held-out loss, {why}")


def _scorer(
    settings: StageSettings, pictures: Pictures, open_scorers: OpenScorers | None
) -> tuple[Callable, dict[str, Any]]:
    """Return (function of process 0: images, prompts → figures; what is known of the metrics).

    That is {"better": which way of each figure, "protocols": the hash of each metric's}.
    """
    train, scorers = settings.train, []
    if open_scorers is None:
        raise InputError(
            f"config.train.eval_metrics = {train.eval_metrics}: this program has no metrics; leave"
            " it out"
        )

    def score(images, prompts):
        made = [one.score(images, prompts) for one in scorers]
        return {f"{PICTURES}/{name}": float(x) for one in made for name, x in one.items()}

    def begin():
        weights = train.eval_weights
        scorers.extend(
            open_scorers(train.metrics, Path(weights) if weights else None, pictures.reference)
        )
        prompts = (pictures.prompts * PROBES)[:PROBES]
        shape = (PROBES, pictures.side, pictures.side, 3)
        noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        better = {}
        for one in scorers:
            names = one.score(noise, prompts)
            better |= {f"{PICTURES}/{name}": one.better for name in names}
        return {"better": better, "protocols": [one.protocol for one in scorers]}

    return score, processes.first("metrics", begin)


def identity(
    settings: StageSettings, pictures: Pictures | None, protocols: Sequence[str] = ()
) -> str:
    """Return what identifies the records, prompts and metrics of an evaluation.

    protocols: the hashes of the metrics', with their weights.
    """
    train, recipe = settings.train, settings.json
    read = {name: recipe[name] for name in SECTIONS if name in recipe}
    read["data"] = {name: x for name, x in read["data"].items() if name not in FREE}
    return json_digest(
        [
            read,
            train.eval_data
            and [dataset_content(train.eval_data, settings.data.shard_cache), train.eval_records],
            pictures and [train.metrics, pictures.prompts, *protocols],
        ]
    )[:12]
