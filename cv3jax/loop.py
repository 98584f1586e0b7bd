"""The training loop every stage runs in: steps, metrics, previews, checkpoints, resumption, and the stop on NaN."""

import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cv3jax import checkpoint
from cv3jax.metrics import MetricsLog
from cv3jax.state import TrainState


class NonFiniteLossError(Exception):
    """Loss, gradient or parameters became NaN or infinite; nothing of it was saved."""


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How long a run is and how often it does what, in steps; 0 only at the end (previews: not at all)."""

    steps: int
    log: int
    save: int
    preview: int
    keep: int


def train_loop(
    *, name: str, workdir: Path, state: TrainState | None, like: Any, data: Any, place: Callable, step_fn: Callable, cadence: Cadence,
    config: dict, preview: Callable[[Any, int], Any] | None = None,
) -> tuple[TrainState, float]:  # fmt: skip
    """Train until `cadence.steps` updates are done: from the newest checkpoint under `workdir`, or else from `state`.

    `like` is the state's shapes and shardings, `data` the loader's iterator, `place` puts one of its batches on the mesh,
    `step_fn(state, batch)` → (state, metrics) is compiled once, `preview(ema, step)` → uint8 [H, W, 3]. Returns (the last
    state, the seconds spent training in all sittings). Loss and norms of every step are looked at before anything is saved.

    Raises:
        NonFiniteLossError: naming the first step that was not finite and the checkpoint that remains.
        InputError: the checkpoint is of another configuration, or damaged.
    """
    manager = checkpoint.open_manager(workdir / "checkpoints", cadence.keep)
    log = None
    try:
        start, seconds = 0, 0.0
        if (latest := manager.latest_step()) is not None:
            state = checkpoint.restore(manager, latest, like, data)
            start, seconds = latest, checkpoint.read_run(manager, latest)["seconds"]
        log = MetricsLog(workdir, name=name, start=start, steps=cadence.steps)
        began, pending = time.monotonic(), []
        for step in range(start + 1, cadence.steps + 1):
            with jax.transfer_guard("disallow"):
                state, metrics = step_fn(state, place(next(data)))
            pending.append((step, metrics))
            log.advance()
            last = step == cadence.steps
            if _due(step, cadence.log) or _due(step, cadence.save) or last:
                log.write(step, {**_mean(pending, manager.latest_step()), "seconds": seconds + time.monotonic() - began})
                pending = []
            if preview and cadence.preview and (_due(step, cadence.preview) or last):
                log.image("preview", step, preview(state.ema, step))
            if _due(step, cadence.save) or last:
                checkpoint.save(manager, step, state, data, {"seconds": seconds + time.monotonic() - began, "config": config})
        return state, seconds + time.monotonic() - began
    finally:
        if log:
            log.close()
        manager.wait_until_finished()
        manager.close()


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _mean(pending: list[tuple[int, dict]], saved: int | None) -> dict[str, float]:
    """The means of the metrics since the last look; raises at the first step that is not finite."""
    values = [(step, jax.device_get(metrics)) for step, metrics in pending]
    for step, metrics in values:
        bad = [name for name in ("loss", "grad_norm", "param_norm") if not math.isfinite(metrics[name])]
        if bad:
            kept = f"the checkpoint of step {saved} remains" if saved else "there is no checkpoint yet"
            raise NonFiniteLossError(f"step {step}: {' and '.join(bad)} not finite; stopped, {kept}; try a lower learning rate")
    return {name: float(sum(m[name] for _, m in values) / len(values)) for name in values[0][1]}
