"""What a run tells: metrics as JSON lines and to TensorBoard, a progress bar with ETA on stderr."""

import json
import sys
from pathlib import Path

import numpy as np
from tensorboardX import SummaryWriter
from tqdm import tqdm


class MetricsLog:
    """`metrics.jsonl` (one object a logging interval) and TensorBoard files under a workdir, and a bar on stderr.

    A resumed run drops the lines past the step it resumes from: they will be written again, with the same losses.
    """

    def __init__(self, workdir: str | Path, *, name: str, start: int, steps: int):
        self.path = Path(workdir) / "metrics.jsonl"
        kept = [line for line in read_lines(self.path) if line["step"] <= start]
        temporary = self.path.with_suffix(".tmp")
        temporary.write_text("".join(json.dumps(line) + "\n" for line in kept))
        temporary.replace(self.path)
        self._file = self.path.open("a")
        self._board = SummaryWriter(str(Path(workdir) / "tensorboard"), purge_step=start + 1 if start else None)
        self._bar = tqdm(
            total=steps, initial=start, desc=name, unit="step", file=sys.stderr, dynamic_ncols=True,
            mininterval=1.0 if sys.stderr.isatty() else 15.0,
        )  # fmt: skip

    def advance(self) -> None:
        """One step done."""
        self._bar.update()

    def write(self, step: int, values: dict[str, float]) -> None:
        """Record `values` (floats) at `step`."""
        self._file.write(json.dumps({"step": step, **values}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._bar.set_postfix({k: f"{values[k]:.4g}" for k in ("loss", "psnr") if k in values}, refresh=False)

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Show uint8 [H, W, 3] in TensorBoard."""
        self._board.add_image(name, image, step, dataformats="HWC")

    def close(self) -> None:
        self._bar.close()
        self._board.close()
        self._file.close()


def read_lines(path: str | Path) -> list[dict]:
    """The objects of a metrics.jsonl; none when there is no file. A last line cut off by a kill is dropped."""
    if not Path(path).exists():
        return []
    lines = Path(path).read_text().splitlines()
    objects = []
    for number, line in enumerate(lines, 1):
        try:
            objects.append(json.loads(line))
        except ValueError:
            if number < len(lines):
                raise ValueError(f"{path}, line {number} is not JSON") from None
    return objects
