"""Jobs while they are drawn: the engine's events, partial images, files, and how a job ends."""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from cv3jax.serving.http import journal
from cv3jax.serving.http.finishing import Finisher
from cv3jax.serving.http.job import Job, points, step_number
from cv3jax.serving.http.journal import Journal
from cv3jax.serving.orders import Drawn, Ended, Engine, Event, Stepped
from data_pipeline.io.errors import InputError

LOG = logging.getLogger(__name__)
THREADS = 4  # that read and write files and ask the journal; and as many that encode pictures
AGAIN = (0.5, 30.0)  # seconds before a failed write is tried again: at first, at most
Count = Callable[..., None]  # is told the name of a metric and its labels


class Drawing:
    """The jobs that are open. Its methods run in the event loop's thread.

    Attributes:
        open: the jobs that are not over, or whose end is not in the journal yet.
        disk: why the last write failed, or None where it did not.
        draining: whether the server stops.
    """

    def __init__(self, engine: Engine, kept: Journal, finisher: Finisher, count: Count):
        """Keep the parts."""
        self._engine, self._journal, self._finisher, self._count = engine, kept, finisher, count
        self.open: dict[str, Job] = {}
        self.disk: OSError | None = None
        self.draining = False
        self._disk = ThreadPoolExecutor(THREADS, "cv3jax-serve-disk")
        self._work = ThreadPoolExecutor(THREADS, "cv3jax-serve-work")
        self._tasks: set[asyncio.Task] = set()
        self._loop = asyncio.get_running_loop()

    @property
    def waiting(self) -> int:
        """The number of pictures that are accepted and not drawn."""
        jobs = [job for job in self.open.values() if not job.is_over]
        return sum(not one.drawn for job in jobs for one in job.pictures)

    async def run(self, function: Callable, *args: Any) -> Any:
        """Return what a function returns that may wait for a disk, or takes a moment."""
        return await self._loop.run_in_executor(self._disk, functools.partial(function, *args))

    async def work(self, function: Callable, *args: Any) -> Any:
        """Return what a function returns that may keep a core busy for a while.

        It has threads of its own, so that large pictures do not hold up the journal.
        """
        return await self._loop.run_in_executor(self._work, functools.partial(function, *args))

    def submit(self, job: Job, image: np.ndarray | None) -> None:
        """Have the pictures of a job drawn that are not; one that cannot be fails the job.

        image: the padded picture of an edit, uint8 [H, W, 3].
        """
        self.open[job.id] = job
        for number, order in enumerate(job.plan.orders(job.id, image)):
            if job.pictures[number].drawn:
                continue
            try:
                self._engine.submit(order, functools.partial(self._hear, job, number))
            except InputError as e:
                if self.draining:  # it is in the journal for the next process
                    job.stopped = True
                    job.ring()
                    return
                self.abort(job, journal.FAILED, str(e), "cannot_be_drawn")
                return

    def abort(self, job: Job, state: str, message: str = "", code: str = "") -> asyncio.Task:
        """End a job without its result, and its pictures before their next step.

        Who waits for it is told at once. Returns the task that writes it into the journal.
        """
        now = time.time()
        job.end(state, now, message, code)
        for one in job.pictures:
            if not one.drawn:
                self._engine.cancel(job.order_id(one.number))
        return self._start(self._close(job, state, now, message, code))

    def done(self, job: Job) -> asyncio.Task:
        """End a job whose pictures are all in the journal. Returns the task that writes it."""
        return self._start(self._close(job, journal.DONE, time.time()))

    def disk_failed(self, e: OSError) -> None:
        """Take note that a job could not be written: none is taken until a small file can be."""
        self._count("errors", kind="disk")
        if self.disk is None:
            self.disk = e
            self._start(self._insist(self._finisher.store.try_out))

    async def close(self) -> None:
        """End all tasks and threads."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in (self._disk, self._work):
            pool.shutdown()

    def _hear(self, job: Job, number: int, event: Event) -> None:
        """Take an event in the engine's thread over into the loop's."""
        with contextlib.suppress(RuntimeError):  # the loop is closed: the server has ended
            self._loop.call_soon_threadsafe(self._heard, job, number, event)

    def _heard(self, job: Job, number: int, event: Event) -> None:
        picture = job.pictures[number]
        if job.is_over or picture.drawn:
            return
        if isinstance(event, Ended):
            self._lost(job, event)
            return
        picture.stage, picture.relay_pass = event.stage, event.relay_pass
        shown = self._finisher.safety is None  # of what is shown before it could be checked
        if isinstance(event, Stepped):
            picture.done, picture.count = event.done, event.count
            if event.preview is not None and shown:
                picture.preview = event.preview
                self._add_preview(job, number, event)
        elif event.last:
            picture.drawn, picture.preview = True, event.image if shown else None
            self._start(self._finish(job, number, event.image))
        else:
            picture.preview = event.image if shown else None
            if event.stage == "base":
                picture.base = event.image if shown and job.plan.previews else None
                self._add_partial(job, number, event)
        job.ring()

    def _lost(self, job: Job, event: Ended) -> None:
        """Take note that the engine ended an order. An engine that stops leaves it to the next."""
        if not event.cancelled:
            self._count("errors", kind="drawing")
            self.abort(job, journal.FAILED, event.message, "drawing_failed")
        elif not self.draining:
            self.abort(job, journal.CANCELLED)

    def _add_preview(self, job: Job, number: int, event: Stepped) -> None:
        """Have a preview encoded as a partial image where one is due."""
        picture, step = job.pictures[number], step_number(job.plan, event)
        if step is None or not job.plan.partial_images:
            return
        passed = sum(step >= point for point in points(job.plan, event))
        if passed > picture.crossed:
            picture.crossed = passed
            self._add_partial(job, number, event)

    def _add_partial(self, job: Job, number: int, event: Stepped | Drawn) -> None:
        if not job.plan.partial_images:
            return
        if isinstance(event, Drawn):
            encoding = self.work(self._finisher.partial, job.plan, event.image, None)
        else:
            size = job.plan.sizes[event.relay_pass]
            encoding = self.work(self._finisher.partial, job.plan, event.preview, size)
        job.pictures[number].partials.append(self._start(encoding))

    async def _finish(self, job: Job, number: int, image: np.ndarray) -> None:
        """Write a picture until it is on the disk, and end the job with its last one.

        A job that ended meanwhile, such as a cancelled one, needs it no longer.
        """
        picture = job.pictures[number]
        finish = functools.partial(self._finisher.finish, job.id, job.plan, number)
        try:
            row = await self._insist(finish, image, picture.base, of=job, run=self.work)
            if job.is_over:
                await self.run(self._finisher.store.remove, [] if row is None else row.files)
                return
            await self._insist(self._journal.add_picture, job.id, row)
        except Exception as e:  # whatever it is, who waits for the picture hears of it
            if job.is_over:
                return
            LOG.error("picture %d of %s was drawn and not kept", number, job.id, exc_info=e)
            self._count("errors", kind="finishing")
            self.abort(
                job, journal.FAILED, "the picture was drawn and could not be kept", "drawing_failed"
            )
            return
        self._count("pictures", kind="drawn" if row.file else "withheld")
        picture.row, picture.base = row, None
        job.ring()
        if all(one.row for one in job.pictures):
            await self.done(job)

    async def _close(self, job: Job, state: str, now: float, message="", code="") -> None:
        """Write how a job ended until it is on the disk."""
        try:
            await self._insist(self._journal.end, job.id, state, now, message, code)
        except Exception as e:  # such as a damaged journal; nobody is to wait for ever
            LOG.error("the end of %s cannot be written", job.id, exc_info=e)
            self._count("errors", kind="finishing")
        await self.run(self._finisher.store.remove_given, job.id)
        self.open.pop(job.id, None)
        if state == journal.DONE:
            job.end(state, now)

    async def _insist(
        self, function: Callable, *args: Any, of: Job | None = None, run: Callable | None = None
    ) -> Any:
        """Return what a function returns that writes; a full or failing disk is tried again.

        of: a job that is not over; when it is, there is no further try, and None is returned. run:
        in which threads; those for disks where none is given.
        """
        pause = AGAIN[0]
        while True:
            try:
                result = await (run or self.run)(function, *args)
            except OSError as e:
                if of is not None and of.is_over:
                    return None
                self._count("errors", kind="disk")
                self.disk = e
                await asyncio.sleep(pause)
                pause = min(2 * pause, AGAIN[1])
            else:
                self.disk = None
                return result

    def _start(self, work: Coroutine) -> asyncio.Task:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (e := task.exception()) is not None:
            self._loop.call_exception_handler({"message": f"a job's task: {e}", "exception": e})
