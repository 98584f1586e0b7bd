"""The training loop of every stage: steps, metrics, previews, checkpoints, resumption and stops."""

import contextlib
import functools
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from cv3jax.checkpoints import runs
from cv3jax.checkpoints.writing import remove_unfinished
from cv3jax.distributed import preemption, processes
from cv3jax.distributed.backend import waiting
from cv3jax.distributed.preemption import NonFiniteLossError
from cv3jax.optim.power_ema import steps_of
from cv3jax.training import heartbeat, posthoc
from cv3jax.training.evaluations import Evaluations
from cv3jax.training.goodput import Account
from cv3jax.training.local_saves import LocalSaves
from cv3jax.training.metrics import MetricsLog, NoLog, mean
from cv3jax.training.optional import optional
from cv3jax.training.prefetch import Prefetch
from cv3jax.training.profiling import tracing
from cv3jax.training.restoring import restored
from cv3jax.training.skipping import Skips, not_finite
from cv3jax.training.throughput import Throughput
from cv3jax.training.train_step import TrainState, as_stored, norms_of
from cv3jax.training.wandb_run import WandbRun
from cv3jax.training.work import Cadence as Cadence
from cv3jax.training.work import Work as Work
from data_pipeline.io.errors import StoppedError
from data_pipeline.io.objects.places import public

CHECK = 50  # most steps between two checks for a failed save in the background


def train_loop(
    work: Work,
    workdir: Path,
    state: TrainState | None,
    cadence: Cadence,
    record: dict,
    *,
    resume_from: int | None = None,
    before: int = 0,
) -> tuple[TrainState, dict[str, float]]:
    """Train until `cadence.steps` updates are done. Returns (the last state, seconds by kind).

    It resumes from the newest checkpoint under `workdir` or on the machines' disks, or starts from
    `state`, or `work.begin()` where that is None. The seconds are those of all sittings. `record`
    and `resume_from` are kept with the checkpoints (see `resume.record`). `before`: the steps of
    this process's earlier loops, by which the processes agree on a last step.

    Loss and norms of every step are checked while the next step runs, and always before anything is
    saved. Meanwhile the next batch is fetched and placed. Evaluation and preview come after the
    checkpoint of their step; if one fails, a message says so. After a signal there are none, and
    the next start makes up for them, also for an evaluation that a kill prevented.

    Raises:
        NonFiniteLossError: a step was not finite, or too many in a row were skipped; the message
            names the step and the checkpoint that remains.
        StoppedError: SIGTERM or Ctrl-C came to any process; the last step is saved.
        InputError: the checkpoint is of another configuration, or a record is damaged.
        OSError: something could not be written; the checkpoints before it remain.
    """
    directory, stay = workdir / "checkpoints", (cadence.keep, cadence.keep_every)
    evaluations = Evaluations(
        workdir, work.assess, every=cadence.eval, last=cadence.steps, best=cadence.best
    )
    with processes.main_first("clean"):
        if processes.main():
            remove_unfinished(directory)
            evaluations.begin()
    evaluations.share()
    there = runs.settle(directory, *stay, evaluations.kept)
    manager = runs.open_manager(directory, *stay, lambda: evaluations.kept)
    with contextlib.ExitStack() as at_end:  # in reverse order, whatever happens
        at_end.callback(manager.close)
        at_end.callback(work.data.close)
        local = LocalSaves(cadence.local, workdir, cadence.steps, work.resumable)
        at_end.callback(local.close)
        batches = Prefetch(work.data, work.place)
        # `pending`: metrics that were not checked yet, on the device; `looked`: those since the
        # last logged line, also the checkpoint's
        start, pending, looked, account, left = 0, deque(), [], Account(), False
        skips = Skips(cadence.skip.most)
        devices = jax.tree.leaves(work.like)[0].sharding.device_set
        speed = Throughput(work.speed.images, sorted(devices, key=lambda one: one.id))
        at_end.callback(account.close)
        with account.doing("checkpoint"):
            found = restored(manager, local, work, record, resume_from, state)
        if found is not None:
            start, state, run = found.step, found.state, found.run
            skips = Skips(cadence.skip.most, run.get("skipped"))
            account.add(run.get("account", {"other": run["seconds"]}))
            looked, left = [tuple(pair) for pair in run["metrics"]], run.get("left", False)
            resume_from = run["resume_from"] if resume_from is None else resume_from
        elif state is None and work.begin:
            state = work.begin()
        local.begin(start)
        log = NoLog()
        if processes.main():
            config = record.get("config", {})
            more = WandbRun(cadence.wandb, workdir, config) if cadence.wandb else None
            log = MetricsLog(workdir, name=work.name, start=start, steps=cadence.steps, more=more)
        at_end.callback(log.close)
        heartbeat.note(name=work.name, step=start, steps=cadence.steps, doing=lambda: account.now)

        def evaluate(step: int, state: TrainState) -> None:
            seen = waiting(f"evaluating step {step}")
            allowed = jax.transfer_guard("allow")  # pictures go to the host
            with account.doing("evaluation"), allowed, optional(step, "evaluation"), seen:
                evaluations.run(state.ema, step, log)

        def draw(step: int, show: Callable[[], Any]) -> None:
            seen = waiting(f"drawing the preview of step {step}")
            allowed = jax.transfer_guard("allow")
            with account.doing("preview"), allowed, optional(step, "preview"), seen:
                if (sheet := show()) is not None:
                    log.image("preview", step, sheet)

        def judge(step: int, state: TrainState) -> None:
            seen = waiting(f"evaluating step {step}")
            # pictures go to the host
            with account.doing("evaluation"), jax.transfer_guard("allow"), seen:
                log.image("preview", step, work.evaluate(state.ema, step))

        def newest() -> int | None:
            return manager.latest_step() or there

        def settle(running: int) -> None:
            """Wait for all steps but the last `running`, and write the lines that are due."""
            while len(pending) > running:
                step, metrics, damaged, flops = pending.popleft()
                account.finished()
                line = _due(step, cadence.log) or _due(step, cadence.save) or step == cadence.steps
                if line or step % CHECK == 0:
                    runs.check_saved(manager)
                looked.append((step, _look(step, metrics, skips, work.rate, newest)))
                log.advance()
                heartbeat.note(step=step)
                speed.count(flops)
                if line:
                    counts = {"damaged": damaged, **skips.line()}
                    rates = work.speed.rates(step - 1, skips.line().get("skipped", 0))
                    figures = {**rates, **speed.line(account.busy()), **speed.memory()}
                    log.write(step, {**mean(looked), **figures, **account.line(), **counts})
                    looked.clear()

        snapshots = steps_of(cadence.posthoc, cadence.steps) if cadence.posthoc else []
        posthoc.forget(workdir, start)
        nothing = contextlib.nullcontext()
        # until the first step there is nothing to save, and a signal ends the process at once
        if work.compile and start < cadence.steps:
            with account.doing("compile"):
                work.compile()
            log.begin()
        if evaluations.missing(start):
            evaluate(start, state)
        if left and work.evaluate:
            judge(start, state)
        if left and work.preview:
            draw(start, functools.partial(work.preview, state.ema, start))
        if work.before and cadence.preview and start < cadence.steps:
            draw(0, lambda: work.before(None if start else state.ema))

        # before what is done at the end, so that a signal does not end the last save
        noticed, step = at_end.enter_context(preemption.noticing(processes.peers())), start

        @at_end.callback
        def finish():  # raises when the last save failed, whatever else was to be reported
            with account.doing("checkpoint"), waiting("writing the last checkpoint"):
                runs.finish(manager)

        trace = at_end.enter_context(tracing(workdir / "profile", cadence.profile))
        for step in range(start + 1, cadence.steps + 1):
            if cadence.profile and step in (cadence.profile.start, cadence.profile.stop):
                settle(0)
            trace(step)
            with jax.transfer_guard("disallow"):
                # workers start, and a data set may be far away
                first = waiting("reading the first batch") if step == start + 1 else nothing
                with account.doing("data"), first:
                    batch = next(batches)
                # A step that has ended is checked first. Where a process has died, the step has
                # failed, and the collectives of another step can make Gloo end this process before
                # it reports that.
                if pending and _ended(pending[-1][1]):
                    settle(0)
                with (
                    account.doing("step"),
                    jax.profiler.StepTraceAnnotation("train", step_num=step),
                ):
                    state, metrics = work.step(state, batch)
                    flops = work.speed.flops(batch)
                account.started(metrics)
                pending.append((step, metrics, batches.damaged, flops))
                last, stop = step == cadence.steps, noticed(before + step)
                if not (last or stop):
                    with account.doing("data"):
                        batches.fetch()
            show = cadence.preview and (_due(step, cadence.preview) or last)
            show = bool(show and (work.preview or work.evaluate))
            kept = _due(step, cadence.save) or _due(step, cadence.keep_every)
            save = kept or last or stop
            near, snapshot = local.due(step) and not save, step in snapshots
            export = (_due(step, cadence.export) and not stop) or (save and work.exports_all)
            export = export and not last
            # the grace of a stop is for the checkpoint; the next start does what is left
            left, show, assess = (
                show and stop,
                show and not stop,
                evaluations.due(step) and not stop,
            )
            # what uses the state waits for it; otherwise this step runs while the one before it is
            # checked
            settle(0 if show or save or near or export or assess or snapshot else 1)
            if show and work.evaluate:
                judge(step, state)
            if save or near:
                with account.doing("checkpoint"):
                    runs.check_saved(manager)
                    run = {
                        "seconds": account.total(),
                        "account": dict(account.seconds),
                        "metrics": list(looked),
                        "skipped": skips.to_json(),
                        "norms": norms_of(state),
                        "resume_from": resume_from,
                        "left": left,
                    }
                    run = {**record, **run}
                    if near or (stop and cadence.local.every):
                        local.save(step, as_stored(state), batches, run)
                    if stop:  # the workdir may be far away, and take longer than the grace
                        local.wait()
                    if save:
                        runs.save(manager, step, as_stored(state), batches, run)
            # the checkpoint is on the disk, whatever these do to this process
            if save and (export or assess or (show and work.preview)):
                with account.doing("checkpoint"):
                    runs.finish(manager)
            if snapshot:
                with account.doing("checkpoint"), jax.transfer_guard("allow"):
                    posthoc.keep(workdir, state.posthoc, step)
            if export and work.export:
                with account.doing("checkpoint"), jax.transfer_guard("allow"):
                    work.export(state.ema)
            if assess:
                evaluate(step, state)
            if show and work.preview:
                draw(step, functools.partial(work.preview, state.ema, step))
            if stop:
                break
        if stop := noticed(before + step):
            where = public(Path(manager.directory) / str(step))
            raise StoppedError(
                stop,
                f"stopped after step {step}, saved in {where}; run the same command to resume",
            )
    local.finish(step)
    if processes.main() and evaluations.kept is not None:
        runs.remove_old(directory, *stay, evaluations.kept)  # what was the best before
    return state, account.seconds


def _ended(metrics: dict[str, jax.Array]) -> bool:
    """Return whether the step with these metrics is done, or has failed."""
    return all(value.is_ready() for value in metrics.values())


def _due(step: int, every: int) -> bool:
    return bool(every) and step % every == 0


def _look(
    step: int, metrics: dict, skips: Skips, rate: str, newest: Callable[[], int | None]
) -> dict[str, float]:
    """Return the metrics as floats, or {} for a skipped update. newest: the last checkpoint's step.

    Raises NonFiniteLossError where they are not finite, or too many updates were skipped.
    """
    values = {name: float(value) for name, value in jax.device_get(metrics).items()}
    skipped = bool(values.get("skipped"))
    wrong = skips.count(step, values, processes.main())
    if not skipped and not_finite(values):
        wrong = not_finite(values)
    if wrong:
        saved = newest()
        kept = f"the checkpoint of step {saved} remains" if saved else "there is no checkpoint yet"
        lower = f"a lower --config.{rate}{f' with --allow-changed {rate}' if saved else ''}"
        raise NonFiniteLossError(
            f"step {step}: {wrong}; the run is stopped, {kept}; give {lower}, or"
            f" {'a higher ' if skips.line() else ''}--config.train.skip_nonfinite, which skips such"
            " updates"
        )
    return {} if skipped else {name: x for name, x in values.items() if name != "skipped"}
