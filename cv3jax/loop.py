"""The training loop every stage runs in: steps, metrics, previews, checkpoints, resumption, and the stops on NaN and on request."""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cv3jax import checkpoint, stopping
from cv3jax.metrics import MetricsLog
from cv3jax.state import TrainState

LOOK = 50  # steps at most between two looks at the metrics, however rarely they are logged
Metrics = list[tuple[int, dict]]  # (step, name → value), oldest first


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
    config: dict, preview: Callable[[Any, int], Any] | None = None, resume_from: int | None = None,
) -> tuple[TrainState, float]:  # fmt: skip
    """Train until `cadence.steps` updates are done: from the newest checkpoint under `workdir`, or else from `state`.

    `like` is the state's shapes and shardings, `data` the loader's iterator, `place` puts one of its batches on the mesh,
    `step_fn(state, batch)` → (state, metrics) is compiled once, `preview(ema, step)` → uint8 [H, W, 3]. `resume_from` is kept
    with the checkpoints (see `train.check_resume`). Returns (the last state, the seconds spent training in all sittings).
    Loss and norms of every step are looked at before anything is saved.

    Raises:
        NonFiniteLossError: naming the first step that was not finite and the checkpoint that remains.
        StoppedError: SIGTERM or Ctrl-C came; the last step is saved.
        InputError: the checkpoint is of another configuration, or a record is damaged.
        OSError: something could not be written; the checkpoints before it remain.
    """
    checkpoint.remove_unfinished(workdir / "checkpoints")
    checkpoint.remove_old(workdir / "checkpoints", cadence.keep)
    manager = checkpoint.open_manager(workdir / "checkpoints", cadence.keep)
    with contextlib.ExitStack() as at_end:  # backwards, whatever happens
        at_end.callback(manager.close)
        # `pending`: metrics not looked at yet, on the device; `looked`: since the last logged line, with the checkpoint
        start, seconds, pending, looked = 0, 0.0, [], []
        if (latest := manager.latest_step()) is not None:
            state, run = checkpoint.restore(manager, latest, like, data), checkpoint.read_run(manager, latest)
            start, seconds, looked = latest, run["seconds"], [tuple(pair) for pair in run["metrics"]]
            resume_from = run["resume_from"] if resume_from is None else resume_from
        log = MetricsLog(workdir, name=name, start=start, steps=cadence.steps)
        at_end.callback(log.close)
        at_end.callback(checkpoint.finish, manager)  # raises when the last save failed, whatever else was to be said
        began, step = time.monotonic(), start
        with stopping.noticing() as noticed:
            for step in range(start + 1, cadence.steps + 1):
                with jax.transfer_guard("disallow"):
                    state, metrics = step_fn(state, place(next(data)))
                pending.append((step, metrics))
                log.advance()
                last, stop = step == cadence.steps, noticed()
                line = _due(step, cadence.log) or _due(step, cadence.save) or last
                save = _due(step, cadence.save) or last or stop
                if line or save or len(pending) == LOOK:
                    checkpoint.check_saved(manager)
                    looked += _look(pending, manager.latest_step())
                    pending = []
                spent = seconds + time.monotonic() - began
                if line:
                    log.write(step, {**_mean(looked), "seconds": spent})
                    looked = []
                if preview and cadence.preview and (_due(step, cadence.preview) or last):
                    log.image("preview", step, preview(state.ema, step))
                if save:
                    run = {"seconds": spent, "config": config, "metrics": looked, "resume_from": resume_from}
                    checkpoint.save(manager, step, state, data, run)
                if stop:
                    break
            if stop := noticed():
                where = manager.directory / str(step)
                raise stopping.StoppedError(stop, f"stopped after step {step}, saved in {where}; run the same command to continue")
        return state, seconds + time.monotonic() - began


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _look(pending: Metrics, saved: int | None) -> Metrics:
    """The metrics as floats, which waits for them; raises at the first step that is not finite."""
    values = [(step, {name: float(value) for name, value in jax.device_get(metrics).items()}) for step, metrics in pending]
    for step, metrics in values:
        bad = [name for name in ("loss", "grad_norm", "param_norm") if not math.isfinite(metrics[name])]
        if bad:
            kept = f"the checkpoint of step {saved} remains" if saved else "there is no checkpoint yet"
            raise NonFiniteLossError(f"step {step}: {' and '.join(bad)} not finite; stopped, {kept}; try a lower learning rate")
    return values


def _mean(values: Metrics) -> dict[str, float]:
    return {name: sum(metrics[name] for _, metrics in values) / len(values) for name in values[0][1]}
