"""All jobs of a server: accepted into the journal, drawn by the engine, kept for a while."""

import asyncio
import errno
import logging
import secrets
import time
from collections.abc import Callable
from typing import Any

from cv3jax.serving.http import given, journal
from cv3jax.serving.http.admission import admit
from cv3jax.serving.http.drawing import Count, Drawing
from cv3jax.serving.http.finishing import Finisher
from cv3jax.serving.http.job import Job, as_kept
from cv3jax.serving.http.journal import Journal, Row
from cv3jax.serving.http.limits import Limits
from cv3jax.serving.http.plan import EDIT, Plan
from cv3jax.serving.orders import Engine
from cv3jax.web.errors import ApiError

LOG = logging.getLogger(__name__)
WRITTEN = 5.0  # seconds for which a cancelled job's end may take to be written
_FULL = (errno.ENOSPC, errno.EDQUOT)


class Book:
    """The jobs of one server. Its methods run in the event loop's thread."""

    def __init__(
        self, engine: Engine, kept: Journal, finisher: Finisher, limits: Limits, count: Count
    ):
        """Keep the parts. `count` is told of jobs, pictures and errors."""
        self.engine, self.limits = engine, limits
        self.drawing = Drawing(engine, kept, finisher, count)
        self._journal, self._finisher, self._count = kept, finisher, count
        self._accepting = asyncio.Lock()

    async def accept(
        self,
        plan: Plan,
        owner: str,
        upload: bytes | None = None,
        retry: tuple[str | None, str] = (None, ""),
    ) -> Job:
        """Return the job of a plan, which is in the journal by then.

        upload: the picture of an edit. retry: the client's Idempotency-Key, and the hash of what it
        sent: with a key that began a job before, that job is returned.

        Raises ApiError where the server cannot take it now, or cannot draw it.
        """
        image = await self._image(plan, upload)
        async with self._accepting:
            if (before := await self.earlier(owner, *retry)) is not None:
                return before
            job = Job(f"job_{secrets.token_urlsafe(18)}", owner, plan, time.time())
            await admit(self.drawing, self.engine, self.limits, plan.orders(job.id, image))
            self.drawing.open[job.id] = job  # who finds it in the journal finds this one
            try:
                await self._write(job, upload, retry)
            except BaseException:  # nobody would end it
                self.drawing.open.pop(job.id, None)
                raise
            if not job.is_over:  # who has its Idempotency-Key may have cancelled it
                self.drawing.submit(job, image)
        self._count("jobs", kind=plan.kind)
        if job.code == "cannot_be_drawn":
            raise ApiError(400, job.message, code=job.code)
        return job

    async def earlier(self, owner: str, retry: str | None, request: str) -> Job | None:
        """Return the job that an Idempotency-Key began, or None.

        Raises ApiError where the same key came with another request.
        """
        row = None if retry is None else await self._ask(self._journal.find_retry, owner, retry)
        if row is None:
            return None
        if row.request != request:
            raise ApiError(
                409,
                "this Idempotency-Key came with another request before; give a new one",
                code="idempotency_key_reused",
            )
        return await self._found(row.id)

    async def find(self, id: str, owner: str) -> Job:
        """Return a job of an owner. Raises ApiError where there is none."""
        job = await self._found(id)
        if job is None or job.owner != owner:
            raise ApiError(
                404,
                f"there is no job {id[:60]!r}; results are kept for {self.limits.keep:g} s",
                code="job_not_found",
            )
        return job

    async def _found(self, id: str) -> Job | None:
        job = self.drawing.open.get(id)
        if job is None and (kept := await self._ask(self._journal.whole, id)) is not None:
            job = as_kept(*kept)
        return job

    async def cancel(self, job: Job) -> None:
        """End a job before its next step. One that is drawn already stays as it is."""
        drawn = all(one.drawn for one in job.pictures)
        if job.id in self.drawing.open and not job.is_over and not drawn:
            writing = self.drawing.abort(job, journal.CANCELLED)
            await asyncio.wait([writing], timeout=WRITTEN)

    async def resume(self) -> int:
        """Have everything drawn that the journal has and no process drew.

        Returns the number of jobs. Call it before any job is accepted.
        """
        store = self._finisher.store
        await self.drawing.run(lambda: store.tidy(*self._journal.known()))
        found = await self.drawing.run(self._journal.unfinished)
        for row in found:
            job = as_kept(row, await self.drawing.run(self._journal.pictures, row.id))
            self.drawing.open[job.id] = job
            try:
                await self._resume(job)
            except (ApiError, OSError) as e:
                self.drawing.abort(job, journal.FAILED, str(e), "cannot_be_resumed")
        return len(found)

    async def sweep(self) -> None:
        """Remove what was kept long enough, now and then, until the task is cancelled."""
        while True:
            try:
                before = time.time() - self.limits.keep
                # the files first: on a full disk, the journal needs their room to change
                files = await self.drawing.run(self._journal.old_files, before)
                await self.drawing.run(self._finisher.store.remove, files)
                await self.drawing.run(self._journal.forget, before)
            except OSError as e:
                LOG.error("what was kept long enough cannot be removed: %s", e)
            except Exception as e:  # one failure is not to be the end of all sweeping
                LOG.error("what was kept long enough cannot be removed", exc_info=e)
            await asyncio.sleep(min(max(self.limits.keep / 10, 0.2), 60.0))

    async def drain(self, seconds: float, hurry: asyncio.Event) -> int:
        """Draw what is accepted for at most so long, or until `hurry`, then stop the engine.

        Returns the number of jobs that are left; the next process draws them.
        """
        self.drawing.draining = True
        until = time.monotonic() + seconds
        while self.drawing.open and time.monotonic() < until and not hurry.is_set():
            await asyncio.sleep(0.05)
        left = [job for job in self.drawing.open.values() if not job.is_over]
        for job in left:
            job.stopped = True
            job.ring()
        await asyncio.to_thread(self.engine.stop, 0.0)
        return len(left)

    async def close(self) -> None:
        """End all tasks and threads, and close the journal."""
        await self.drawing.close()
        self._journal.close()

    async def read(self, name: str) -> bytes:
        """Return the bytes of a picture's file. Raises ApiError where it is gone."""
        try:
            return await self.drawing.run(self._finisher.store.read, name)
        except FileNotFoundError as e:
            raise ApiError(
                404,
                f"this picture is gone; results are kept for {self.limits.keep:g} s",
                code="file_not_found",
            ) from e
        except OSError as e:
            raise disk_error(e) from e

    async def base(self, job: Job, number: int) -> bytes:
        """Return the base's own picture of picture `number`. Raises ApiError where there is none.

        Where a safety check is on, there is none.
        """
        picture = job.pictures[number] if number < len(job.pictures) else None
        if picture is not None and picture.row is not None and picture.row.base is not None:
            return await self.read(picture.row.base)
        if picture is None or picture.base is None:
            raise ApiError(404, "the job has no base picture of that number", code="base_not_found")
        return await self.drawing.work(self._finisher.partial, job.plan, picture.base, None)

    def ahead(self, job: Job) -> int:
        """Return how many pictures were accepted before a job and are not drawn."""
        count = 0
        for other in self.drawing.open.values():
            if other is job:
                return count
            count += 0 if other.is_over else sum(not one.drawn for one in other.pictures)
        return 0

    async def has_file(self, name: str) -> bool:
        """Return whether a picture of that name is kept."""
        known = self._finisher.store.path(name) is not None
        return known and await self._ask(self._journal.has_file, name)

    async def _image(self, plan: Plan, upload: bytes | None) -> Any:
        """Return the padded picture of an edit, uint8 [H, W, 3], or None."""
        if upload is None:
            return None
        pixels = self.limits.pixels
        return (await self.drawing.work(given.layers_of, upload, plan, pixels)).colours

    async def _ask(self, function: Callable, *args: Any) -> Any:
        try:
            return await self.drawing.run(function, *args)
        except OSError as e:
            raise disk_error(e) from e

    async def _write(self, job: Job, upload: bytes | None, retry: tuple[str | None, str]) -> None:
        """Put a job into the journal, and its given picture beside it. Raises ApiError."""
        row = Row(job.id, job.owner, *retry, job.plan, job.accepted)

        def write() -> None:
            if upload is not None:
                self._finisher.store.write_given(job.id, upload)
            try:
                self._journal.add(row)
            except OSError:
                self._finisher.store.remove_given(job.id)
                raise

        try:
            await self.drawing.run(write)
        except OSError as e:
            self.drawing.disk_failed(e)
            raise disk_error(e) from e

    async def _resume(self, job: Job) -> None:
        plan = job.plan
        if plan.fingerprint != self._finisher.model.fingerprint:
            raise ApiError(500, "the server has another checkpoint now", code="")
        known = self._finisher.model.loras
        if any(one["sha256"] != known.get(one["name"], {}).get("sha256") for one in plan.loras):
            raise ApiError(500, "the server has other adapters now", code="")
        if all(one.drawn for one in job.pictures):
            await self.drawing.done(job)
            return
        data = None
        if plan.kind == EDIT:
            data = await self.drawing.run(self._finisher.store.read_given, job.id)
        self.drawing.submit(job, await self._image(plan, data))


def disk_error(e: OSError) -> ApiError:
    """Return the answer where the journal or a file could not be written or read."""
    if e.errno in _FULL:
        return ApiError(507, "the server's disk is full; try again later", code="disk_full")
    return ApiError(503, "the server's disk fails; try again later", code="disk_failed")
