"""The log of a run: metrics as JSON lines and to TensorBoard, and a progress bar on stderr."""

import contextlib
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cv3jax.training.wandb_run import WandbRun
from data_pipeline.io import progress
from data_pipeline.io.bounded_json import parse_json
from data_pipeline.io.errors import InputError, naming
from data_pipeline.io.files import replacing

if TYPE_CHECKING:  # importing it takes seconds, because it imports torch where that is installed
    from tensorboardX.summary import Summary


SHOWN = ("loss", "psnr", "heldout/loss")  # beside the progress bar


class MetricsLog:
    """`metrics.jsonl` (an object per logging interval) and TensorBoard files, and a bar on stderr.

    A resumed run drops the lines after the step from which it resumes: they will be written again,
    with the same losses. Everything is written at once, in this thread: a writing thread would hang
    on a full disk, and wait for a clock that was set back.
    """

    def __init__(
        self,
        workdir: str | Path,
        *,
        name: str,
        start: int,
        steps: int,
        more: WandbRun | None = None,
    ):
        """Open the log under `workdir` for a run from step `start` to `steps`.

        more: what gets the numbers and the previews too.
        """
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.path, self._more = Path(workdir) / "metrics.jsonl", more
        kept = [line for line in read_lines(self.path) if line["step"] <= start]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a")
        board = Path(workdir) / "tensorboard"
        board.mkdir(exist_ok=True)
        # TensorBoard reads the files in the order of their names
        self._board = EventsWriter(str(board / f"events.{start:09d}"))
        if start:  # and forgets what it had from this step on
            restarted = SessionLog(status=SessionLog.START)
            self._board.write_event(
                Event(step=start + 1, wall_time=time.time(), session_log=restarted)
            )
        # tqdm uses the wall clock and would stand still where that is set back
        self._bar = progress.bar(steps, name, "step", initial=start)
        self._bar._time = time.monotonic
        self._shown: dict[str, str] = {}
        self._bar.start_t = self._bar.last_print_t = time.monotonic()

    def begin(self) -> None:
        """Have the bar's ETA leave out the time until now, which went into compiling."""
        self._bar.unpause()

    def advance(self) -> None:
        """Count one step as done."""
        self._bar.update()

    def write(self, step: int, values: dict[str, float | str]) -> None:
        """Record `values` at `step`. TensorBoard gets the numbers alone."""
        from tensorboardX.summary import scalar

        with naming(self.path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        numbers = {name: value for name, value in values.items() if not isinstance(value, str)}
        self._show(step, *(scalar(name, value) for name, value in numbers.items()))
        if self._more:
            self._more.write(step, numbers)
        self._shown |= {name: f"{values[name]:.4g}" for name in SHOWN if name in values}
        self._bar.set_postfix(self._shown, refresh=False)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Show uint8 [H, W, 3] in TensorBoard."""
        from tensorboardX import summary

        self._show(step, summary.image(name, image, dataformats="HWC"))
        if self._more:
            self._more.image(name, step, image)

    def close(self) -> None:
        """Close the bar and the files."""
        self._bar.close()
        if self._more:
            self._more.close()
        # everything was flushed when it was written, and errors were reported then
        with contextlib.suppress(OSError):
            self._board.close()
        with contextlib.suppress(OSError):
            self._file.close()

    def _show(self, step: int, *what: "Summary") -> None:
        from tensorboardX.proto.event_pb2 import Event

        with naming(self.path.parent / "tensorboard"):
            for one in what:
                self._board.write_event(Event(step=step, wall_time=time.time(), summary=one))
            self._board.flush()


class NoLog:
    """The log of a process that leaves logging to process 0."""

    def advance(self) -> None:
        """Do nothing."""
        pass

    def begin(self) -> None:
        """Do nothing."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Do nothing."""
        pass

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Do nothing."""
        pass

    def close(self) -> None:
        """Do nothing."""
        pass


def mean(values: list[tuple[int, dict]]) -> dict[str, float]:
    """Return the mean of each metric over the updates that were done, or {} where none was.

    values: (step, name → value; empty where the update was skipped).
    """
    done = [metrics for _, metrics in values if metrics]
    names = done[0] if done else ()
    return {name: sum(metrics[name] for metrics in done) / len(done) for name in names}


def read_lines(path: str | Path) -> list[dict]:
    """Return the objects of a metrics.jsonl, or [] when there is no file.

    A last line that a kill cut off is dropped.

    Raises:
        InputError: another line is damaged.
    """
    if not Path(path).exists():
        return []
    lines = Path(path).read_text(errors="replace").splitlines()
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            objects.append(parse_json(line, nan=True))
            _ = int(objects[-1]["step"])
        except (ValueError, TypeError, KeyError, OverflowError):
            if number < len(lines):
                raise InputError(
                    f"{path}, line {number} is not a line of metrics; remove it"
                ) from None
            del objects[number - 1 :]
    return objects
