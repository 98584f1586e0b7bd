"""Read a run's checkpoint as a cascade: the EMA of its stage, beside the other parts.

A checkpoint records what the cascade of its run will be (`about`). So a run that is still in
progress, or was stopped, can be sampled, exported and started from as a finished run can.
"""

import dataclasses
import functools
from pathlib import Path
from typing import Any

from cv3jax.checkpoints import manifest
from cv3jax.checkpoints.description import CascadeDescription
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import reading
from data_pipeline.io.objects.places import shown
from data_pipeline.io.progress import say


def about(stage: str, description: CascadeDescription, parts: dict[str, Path]) -> dict[str, Any]:
    """Return what a checkpoint records of its cascade, as JSON.

    It has the part in training, the description of all parts, and the places of the others, which
    are addresses where a bucket has them.
    """
    where = {part: shown(place) for part, place in parts.items() if part != stage}
    return {"stage": stage, "description": description.to_json(), "parts": where}


def newest_step(path: Path) -> Path | None:
    """Return the newest signed checkpoint of the run at `path`, or None.

    Where `path` is a checkpoint itself, return `path`.
    """
    places = []
    if (path / "checkpoints").is_dir():
        from cv3jax.checkpoints import runs  # with orbax, for which a wrong path need not wait

        places = [path / "checkpoints" / str(step) for step in runs.steps(path / "checkpoints")]
    whole = [place for place in (*places, path) if _signed(place)]
    return whole[-1] if whole else None


def rounds(path: Path) -> list[Path]:
    """Return the directories of a distillation's rounds, the last one first; [] for another run."""
    found = [place for place in (path / "rounds").glob("*_steps") if place.is_dir()]
    numbers = {place: place.name.partition("_")[0] for place in found}
    numbered = [place for place in found if numbers[place].isdigit()]
    return sorted(numbered, key=lambda place: -int(numbers[place]))


def _signed(place: Path) -> bool:
    return place.name.isdigit() and all(
        (place / name).exists() for name in (manifest.NAME, "state", "run")
    )


def named(step: Path) -> str:
    """Return how messages name the description that a checkpoint records."""
    return f"the description in checkpoint {step}"


def describe(step: Path) -> CascadeDescription:
    """Return the description of the cascade that a checkpoint stands for.

    Raises InputError on a checkpoint that records none, or on a damaged one.
    """
    value, where = _kept(step)["description"], named(step)
    vae = value.get("vae")
    unmeasured = isinstance(vae, dict) and vae.get("scale", 1.0) is None
    if unmeasured:
        value = {**value, "vae": {**vae, "scale": 1.0}}
    description = CascadeDescription.from_json(value, where)
    if not unmeasured:
        return description
    return dataclasses.replace(description, vae=dataclasses.replace(description.vae, scale=None))


def place_of(step: Path, part: str) -> tuple[Path, tuple[str, ...]]:
    """Return (the orbax tree that holds a part of that cascade, the path within it)."""
    kept = _kept(step)
    if part == kept["stage"]:
        return step / "state", ("ema",)
    name, _, within = part.partition("/")
    if (where := kept["parts"].get(part)) is not None:
        return reading.found(where), ()
    if (where := kept["parts"].get(name)) is None:
        return step / part, ()  # it does not exist, and its reader says so
    return reading.found(where) / within, ()


def _kept(step: Path) -> dict[str, Any]:
    from cv3jax.checkpoints import runs

    try:
        run = runs.run_of(step.parent, int(step.name))
    except (OSError, ValueError, StopIteration) as e:
        raise InputError(
            f"checkpoint {step} is damaged: its record of the run cannot be read; resume the run,"
            " which names an intact checkpoint"
        ) from e
    if not isinstance(run, dict) or "cascade" not in run:
        raise InputError(
            f"checkpoint {step} does not name its cascade, because an older version of cv3jax wrote"
            " it; resume its run until it saves another checkpoint"
        )
    if isinstance(run["cascade"], dict) and run["cascade"].get("adapter"):
        raise InputError(
            f"checkpoint {step} is of a run that trains an adapter, which is no cascade; give the"
            f" checkpoint that it adapts ({run['cascade']['adapter']})"
        )
    kept, kinds = run["cascade"], {"stage": str, "description": dict, "parts": dict}
    fields = kept if isinstance(kept, dict) else {}
    right = all(isinstance(fields.get(name), kind) for name, kind in kinds.items())
    if not right or not all(isinstance(place, str) for place in fields["parts"].values()):
        raise InputError(f"checkpoint {step} is damaged: what it records of its cascade is wrong")
    return kept


@functools.cache  # once, however many readers a command has
def say_newest(path: Path, step: Path) -> None:
    """Say which checkpoint stands for a run that has no cascade."""
    say(f"cv3jax: {path} has no cascade yet; taking the EMA of step {step.name} from {step}")
