"""The training loop every stage runs in: steps, metrics, previews, checkpoints, resumption, and the
stops on NaN and on request.
"""

import contextlib
import dataclasses
import math
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cv3jax.checkpoints import runs
from cv3jax.distributed import preemption, processes
from cv3jax.distributed.preemption import NonFiniteLossError
from cv3jax.training.goodput import Account
from cv3jax.training.metrics import MetricsLog, NoLog
from cv3jax.training.prefetch import Ahead
from cv3jax.training.profiling import tracing
from cv3jax.training.settings import TrainSettings
from cv3jax.training.train_step import TrainState
from data_pipeline.io.errors import StoppedError

CHECK = 50  # steps at most between two looks at whether the save in the background has failed
Metrics = list[tuple[int, dict]]  # (step, name → value), oldest first


@dataclasses.dataclass(frozen=True)
class Cadence:
    """How long a run is and how often it does what, in steps; 0 only at the end (previews: not at
    all).
    """

    steps: int
    log: int
    save: int
    preview: int
    keep: int
    profile: range | None = None  # steps to trace

    @classmethod
    def of(cls, train: TrainSettings, profile: range | None) -> "Cadence":
        """The cadence that a recipe's train section says."""
        return cls(
            train.steps,
            train.log_every,
            train.save_every,
            train.preview_every,
            train.keep,
            profile,
        )


@dataclasses.dataclass(frozen=True)
class Work:
    """What is trained: the state's shapes, its data, and the functions of its steps."""

    name: str
    like: Any  # the state's shapes and shardings
    data: Any  # the loader's iterator
    place: Callable[[Any], Any]  # one of its batches → on the mesh
    step: Callable[[TrainState, Any], tuple[TrainState, dict]]  # (state, batch) → (state, metrics)
    preview: Callable[[Any, int], Any] | None = None  # (ema, step) → uint8 [H, W, 3]
    compile: Callable[[], None] | None = None  # what `step` calls, before the first of them


def train_loop(
    work: Work,
    workdir: Path,
    state: TrainState | None,
    cadence: Cadence,
    config: dict,
    *,
    resume_from: int | None = None,
    before: int = 0,
) -> tuple[TrainState, dict[str, float]]:
    """Train until `cadence.steps` updates are done: from the newest checkpoint under `workdir`, or
    else from `state`.

    `config` and `resume_from` are kept with the checkpoints (see `resume.check_resume`). `before`:
    the steps of this process's earlier loops, by which the processes agree on a last one. Returns
    (the last state, the seconds by kind in all sittings). Loss and norms of every step are looked
    at: while the next step runs, and in any case before anything is saved. Meanwhile the batch
    after it is fetched and placed.

    Raises:
        NonFiniteLossError: naming the first step that was not finite and the checkpoint that
            remains.
        StoppedError: SIGTERM or Ctrl-C came, to any process; the last step is saved.
        InputError: the checkpoint is of another configuration, or a record is damaged.
        OSError: something could not be written; the checkpoints before it remain.
    """
    with processes.main_first("clean"):
        if processes.main():
            runs.remove_unfinished(workdir / "checkpoints")
            runs.remove_old(workdir / "checkpoints", cadence.keep)
    manager = runs.open_manager(workdir / "checkpoints", cadence.keep)
    with contextlib.ExitStack() as at_end:  # backwards, whatever happens
        at_end.callback(manager.close)
        at_end.callback(work.data.close)
        batches = Ahead(work.data, work.place)
        # `pending`: metrics not looked at yet, on the device; `looked`: since the last logged line,
        # with the checkpoint
        start, pending, looked, account = 0, deque(), [], Account()
        at_end.callback(account.close)
        # a network file system may show others late
        if (latest := processes.first("latest", manager.latest_step)) is not None:
            with account.doing("checkpoint"):
                state, run = (
                    runs.restore(manager, latest, work.like, work.data),
                    runs.read_run(manager, latest),
                )
            account.add(run.get("account", {"other": run["seconds"]}))
            start, looked = latest, [tuple(pair) for pair in run["metrics"]]
            resume_from = run["resume_from"] if resume_from is None else resume_from
        log = (
            MetricsLog(workdir, name=work.name, start=start, steps=cadence.steps)
            if processes.main()
            else NoLog()
        )
        at_end.callback(log.close)

        @at_end.callback
        def finish():  # raises when the last save failed, whatever else was to be said
            with account.doing("checkpoint"):
                runs.finish(manager)

        def settle(running: int) -> None:
            """Look at the metrics of all steps but the last `running`, which waits for them, and
            write the lines that are due.
            """
            while len(pending) > running:
                step, metrics, damaged = pending.popleft()
                account.finished()
                line = _due(step, cadence.log) or _due(step, cadence.save) or step == cadence.steps
                if line or step % CHECK == 0:
                    runs.check_saved(manager)
                looked.append((step, _look(step, metrics, manager)))
                log.advance()
                if line:
                    log.write(step, {**_mean(looked), **account.line(), "damaged": damaged})
                    looked.clear()

        trace = at_end.enter_context(tracing(workdir / "profile", cadence.profile))
        noticed, step = at_end.enter_context(preemption.noticing(processes.peers())), start
        if work.compile and start < cadence.steps:
            with account.doing("compile"):
                work.compile()
        for step in range(start + 1, cadence.steps + 1):
            if cadence.profile and step in (cadence.profile.start, cadence.profile.stop):
                settle(0)
            trace(step)
            with jax.transfer_guard("disallow"):
                with account.doing("data"):
                    batch = next(batches)
                # A step that has ended is looked at first. Where a process has died it has failed,
                # and collectives of another step on top of its remains can make Gloo end this
                # process before it says so.
                if pending and _ended(pending[-1][1]):
                    settle(0)
                with (
                    account.doing("step"),
                    jax.profiler.StepTraceAnnotation("train", step_num=step),
                ):
                    state, metrics = work.step(state, batch)
                account.started(metrics)
                pending.append((step, metrics, batches.damaged))
                last, stop = step == cadence.steps, noticed(before + step)
                if not (last or stop):
                    with account.doing("data"):
                        batches.fetch()
            show = work.preview and cadence.preview and (_due(step, cadence.preview) or last)
            save = _due(step, cadence.save) or last or stop
            # what uses the state waits for it; else this step runs while the one before is looked
            # at
            settle(0 if show or save else 1)
            if show:
                # pictures are for the host
                with account.doing("preview"), jax.transfer_guard("allow"):
                    log.image("preview", step, work.preview(state.ema, step))
            if save:
                with account.doing("checkpoint"):
                    runs.check_saved(manager)
                    run = {
                        "seconds": account.total(),
                        "account": dict(account.seconds),
                        "config": config,
                        "metrics": list(looked),
                    }
                    runs.save(manager, step, state, batches, {**run, "resume_from": resume_from})
            if stop:
                break
        if stop := noticed(before + step):
            where = manager.directory / str(step)
            raise StoppedError(
                stop,
                f"stopped after step {step}, saved in {where}; run the same command to continue",
            )
    return state, account.seconds


def _ended(metrics: dict[str, jax.Array]) -> bool:
    """Whether the step that gave these is done, or has failed."""
    return all(value.is_ready() for value in metrics.values())


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _look(step: int, metrics: dict, manager: Any) -> dict[str, float]:
    """The metrics as floats; raises where they are not finite."""
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    bad = [name for name in ("loss", "grad_norm", "param_norm") if not math.isfinite(values[name])]
    if bad:
        saved = manager.latest_step()
        kept = f"the checkpoint of step {saved} remains" if saved else "there is no checkpoint yet"
        raise NonFiniteLossError(
            f"step {step}: {' and '.join(bad)} not finite; stopped, {kept}; try a lower learning"
            " rate"
        )
    return values


def _mean(values: Metrics) -> dict[str, float]:
    return {
        name: sum(metrics[name] for _, metrics in values) / len(values) for name in values[0][1]
    }
