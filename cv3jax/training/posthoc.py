"""Snapshots of a run's power-function averages, from which another EMA is made afterwards.

WORKDIR/posthoc/STEP/WIDTH is an average after that step. A run keeps at most optim.posthoc of each
width. A snapshot of a step is the same however often the run was killed before it, so one that is
there is written again when a run resumes before it.
"""

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.checkpoints import cascades, streaming
from cv3jax.checkpoints.streaming import Leaf
from cv3jax.distributed import processes
from cv3jax.optim import power_ema
from cv3jax.weights.importing import progress
from data_pipeline.io.errors import InputError
from data_pipeline.io.staging import appearing

FOLDER = "posthoc"


def name_of(width: float) -> str:
    """Return the name of an average of that σ_rel."""
    return f"{width:.2f}"


def keep(workdir: Path, averages: dict[str, Any], step: int) -> None:
    """Write the averages after `step`; all processes call it."""
    for name, tree in averages.items():
        cascades.save_part(workdir / FOLDER / str(step) / name, tree)


def forget(workdir: Path, after: int) -> None:
    """Remove the snapshots of later steps than the one that a run resumes from."""
    with processes.main_first("posthoc"):
        if processes.main():
            for step in steps(workdir):
                if step > after:
                    shutil.rmtree(workdir / FOLDER / str(step))


def steps(workdir: Path) -> list[int]:
    """Return the steps that have snapshots, oldest first."""
    found = (workdir / FOLDER).glob("[0-9]*")
    return sorted(int(place.name) for place in found if place.name.isdigit() and place.is_dir())


def reconstruct(workdir: Path, width: float, out: Path, step: int | None = None) -> dict[str, Any]:
    """Write the cascade of a run with the average of σ_rel = `width` in it as `out`.

    step: of the snapshot at which the average ends, by default the last one's. The sum is made leaf
    by leaf in float64. Returns figures.

    Raises:
        InputError: the run has no snapshots, or is damaged, or `out` exists.
        OSError: it could not be written; nothing is left.
    """
    known = steps(workdir)
    if not known:
        raise InputError(
            f"{workdir} has no snapshots of averages; train with --config.optim.posthoc=32"
        )
    step = known[-1] if step is None else step
    if step not in known:
        raise InputError(f"--at-step {step}: there are snapshots of {', '.join(map(str, known))}")
    used = [one for one in known if one <= step]
    places = [
        (workdir / FOLDER / str(one) / name_of(kind), one, power_ema.exponent(kind))
        for one in used
        for kind in power_ema.WIDTHS
    ]
    shares = power_ema.weights(
        [one for _, one, _ in places],
        [gamma for *_, gamma in places],
        step,
        power_ema.exponent(width),
    )
    for place, *_ in places:
        cascades.check_part(place)
    try:
        trees = [streaming.open_tree(place) for place, *_ in places]
    except (KeyError, ValueError, OSError) as e:
        raise InputError(f"{workdir / FOLDER} is damaged; resume the run, or remove it") from e
    directory, description = cascades.read_cascade(workdir)
    part = _trained(workdir, description.parts)
    with appearing(out) as partial:
        for other in description.parts:
            place, _ = cascades.place_of(directory, other)
            if other == part:
                with progress(part, _sum(trees, shares)) as shown:
                    cascades.save_part(partial / part, shown)
                continue
            cascades.check_part(place)
            cascades.carry_part(place, partial / other)
        cascades.write_cascade(partial, description)
    return {"part": part, "step": step, "sigma_rel": width, "snapshots": len(places)}


def _trained(workdir: Path, parts: Any) -> str:
    """Return which part the run trains, as its newest checkpoint says."""
    from cv3jax.checkpoints import runs

    there = runs.steps(workdir / "checkpoints")
    run = runs.run_of(workdir / "checkpoints", there[-1]) if there else {}
    stage = run.get("config", {}).get("stage")
    if stage not in parts:
        raise InputError(f"{workdir} has no checkpoint that says which stage it trains")
    return stage


def _sum(trees: list[dict], shares: np.ndarray) -> dict:
    """Return the tree of leaves that are the sum of the trees' leaves times their shares."""

    def joined(*leaves: Any) -> Any:
        if isinstance(leaves[0], dict):
            return {name: joined(*(one[name] for one in leaves)) for name in leaves[0]}

        def read() -> np.ndarray:
            total = np.zeros(leaves[0].shape)
            for leaf, share in zip(leaves, shares, strict=True):
                total += share * leaf.read().astype(np.float64)
            return total.astype(np.float32)

        return Leaf(leaves[0].shape, np.dtype(np.float32), read)

    return joined(*trees)
