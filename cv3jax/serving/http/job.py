"""A job in memory: how far each of its pictures is, and a bell for those who wait."""

import asyncio
import dataclasses
from typing import Any

import numpy as np

from cv3jax.serving.http import journal
from cv3jax.serving.http.journal import PictureRow
from cv3jax.serving.http.plan import Plan
from cv3jax.serving.orders import Stepped
from cv3jax.web.errors import ApiError


@dataclasses.dataclass
class Progress:
    """How far a picture is."""

    number: int
    stage: str = ""  # of the last step; empty before the first
    relay_pass: int = 0
    done: int = 0
    count: int = 0
    preview: np.ndarray | None = None  # the newest, uint8 [h, w, 3]
    # the base's own picture, uint8 [H, W, 3], where previews are shown, until its file is written
    base: np.ndarray | None = None
    # bytes of the partial images in order, None for one that was withheld
    partials: list["asyncio.Task[bytes | None]"] = dataclasses.field(default_factory=list)
    crossed: int = 0  # how many points of `points` were passed
    drawn: bool = False  # while its file is being written, and after
    row: PictureRow | None = None  # of the journal


class Job:
    """A job. Everything of it is read and changed in the event loop's thread."""

    def __init__(self, id: str, owner: str, plan: Plan, accepted: float):
        """Make a job that is accepted."""
        self.id, self.owner, self.plan, self.accepted = id, owner, plan, accepted
        self.pictures = [Progress(number) for number in range(plan.n)]
        self.ending = journal.ACCEPTED
        self.ended: float | None = None
        self.message = self.code = ""
        self.stopped = False  # whether the server stops before the job is drawn
        self.changed = asyncio.Event()

    @property
    def is_over(self) -> bool:
        """Whether the job ended, in whatever way."""
        return self.ending != journal.ACCEPTED

    @property
    def state(self) -> str:
        """accepted, running, done, failed or cancelled."""
        if self.ending == journal.ACCEPTED and any(one.stage or one.row for one in self.pictures):
            return "running"
        return self.ending

    def order_id(self, number: int) -> str:
        """Return the name by which the engine knows a picture."""
        return f"{self.id}.{number}"

    def ring(self) -> None:
        """Wake all who wait for a change."""
        self.changed.set()
        self.changed = asyncio.Event()

    def end(self, state: str, now: float, message: str = "", code: str = "") -> None:
        """Note how the job ended, and wake all who wait."""
        self.ending, self.ended, self.message, self.code = state, now, message, code
        for picture in self.pictures:
            picture.preview = None
        self.ring()

    def problem(self) -> ApiError | None:
        """Return why there is no result and will be none from this process, or None."""
        if self.ending == journal.FAILED:
            return ApiError(500, self.message, code=self.code or "drawing_failed")
        if self.ending == journal.CANCELLED:
            return ApiError(409, "the job was cancelled", code="job_cancelled")
        if self.ending == journal.DONE and all(not one.row.file for one in self.pictures):
            return ApiError(
                400,
                "the safety check withheld all pictures of this request; change the prompt",
                code="moderation_blocked",
                param="prompt",
            )
        if self.stopped and not self.is_over:
            return ApiError(
                503,
                f"the server stops; job {self.id} is drawn when it runs again",
                code="server_stopping",
                retry_after=10,
            )
        return None


def points(plan: Plan, event: Stepped) -> list[int]:
    """Return the steps after which partial images are due, of all steps that count for them.

    After a base stage the first partial image is the base's own picture, and the others show what
    the relay passes predict. Without a base and a relay pass, all show what the only stage does.
    """
    both = plan.passes > 0 and "base" in plan.stages
    total = event.count * max(plan.passes, 1)
    left = plan.partial_images - both
    return sorted({-(-total * (i + 1) // (left + 1)) for i in range(left)} - {total, 0})


def step_number(plan: Plan, event: Stepped) -> int | None:
    """Return how many of the steps that count for `points` are done, or None for another stage's.

    Those of the base do not count where relay passes follow.
    """
    if plan.passes and event.stage == "base":
        return None
    return event.count * max(event.relay_pass - 1, 0) + event.done


def as_kept(row: journal.Row, pictures: list[PictureRow]) -> Job:
    """Return a job as the journal has it."""
    job = Job(row.id, row.owner, row.plan, row.accepted)
    job.ending, job.ended, job.message, job.code = row.state, row.ended, row.message, row.code
    for picture in pictures:
        job.pictures[picture.number].row = picture
        job.pictures[picture.number].drawn = True
    return job


def about(plan: Plan, number: int) -> dict[str, Any]:
    """Return what the answer says of a picture besides its pixels."""
    said: dict[str, Any] = {"seed": plan.seed + number}
    if plan.expansion is not None:
        said["revised_prompt"] = plan.text
    return said
