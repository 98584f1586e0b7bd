"""What a run tells: metrics as JSON lines and to TensorBoard, a progress bar with ETA on stderr."""

import contextlib
import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from data_pipeline.io.errors import InputError, naming
from data_pipeline.io.files import replacing

if TYPE_CHECKING:  # importing it takes seconds: it imports torch where there is one
    from tensorboardX.summary import Summary


class MetricsLog:
    """`metrics.jsonl` (one object a logging interval) and TensorBoard files under a workdir, and a
    bar on stderr.

    A resumed run drops the lines past the step it resumes from: they will be written again, with
    the same losses.
    All is written at once and here: a writing thread would hang on a full disk, and wait for a
    clock that was set back.
    """

    def __init__(self, workdir: str | Path, *, name: str, start: int, steps: int):
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event, SessionLog

        self.path = Path(workdir) / "metrics.jsonl"
        kept = [line for line in read_lines(self.path) if line["step"] <= start]
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self._file = self.path.open("a")
        board = Path(workdir) / "tensorboard"
        board.mkdir(exist_ok=True)
        # TensorBoard reads them in the order of their names
        self._board = EventsWriter(str(board / f"events.{start:09d}"))
        if start:  # and forgets what it had from this step on
            restarted = SessionLog(status=SessionLog.START)
            self._board.write_event(
                Event(step=start + 1, wall_time=time.time(), session_log=restarted)
            )
        # tqdm goes by the wall clock and would stand still where that is set back; miniters, else
        # its thread resets it by that clock
        self._bar = tqdm(
            total=steps,
            initial=start,
            desc=name,
            unit="step",
            file=sys.stderr,
            dynamic_ncols=True,
            miniters=1,
            mininterval=1.0 if sys.stderr.isatty() else 15.0,
        )
        self._bar._time = time.monotonic
        self._bar.start_t = self._bar.last_print_t = time.monotonic()

    def advance(self) -> None:
        """One step done."""
        self._bar.update()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record `values` (floats) at `step`."""
        from tensorboardX.summary import scalar

        with naming(self.path):
            self._file.write(json.dumps({"step": step, **values}) + "\n")
            self._file.flush()
        self._show(step, *(scalar(name, value) for name, value in values.items()))
        self._bar.set_postfix(
            {k: f"{values[k]:.4g}" for k in ("loss", "psnr") if k in values}, refresh=False
        )

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Show uint8 [H, W, 3] in TensorBoard."""
        from tensorboardX import summary

        self._show(step, summary.image(name, image, dataformats="HWC"))

    def close(self) -> None:
        self._bar.close()
        # all was flushed when it was written; what could not be was said then
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
    """The log of a process that leaves telling to another."""

    def advance(self) -> None:
        pass

    def write(self, step: int, values: dict[str, float]) -> None:
        pass

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        pass

    def close(self) -> None:
        pass


def read_lines(path: str | Path) -> list[dict]:
    """The objects of a metrics.jsonl; none when there is no file.

    A last line cut off by a kill is dropped.

    Raises:
        InputError: another line is damaged.
    """
    if not Path(path).exists():
        return []
    lines = Path(path).read_text(errors="replace").splitlines()
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            objects.append(json.loads(line))
            _ = int(objects[-1]["step"])
        except (ValueError, TypeError, KeyError):
            if number < len(lines):
                raise InputError(
                    f"{path}, line {number} is not a line of metrics; remove it"
                ) from None
            del objects[number - 1 :]
    return objects
