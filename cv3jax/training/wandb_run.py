"""A run's metrics at Weights & Biases, if `train.wandb` names a project there.

WORKDIR/wandb.json keeps the id, so that a resumed run goes on as the same one. Steps are a figure
of their own: a resumed run may write again what it had after its checkpoint, and wandb's own count
only goes up. WANDB_MODE=offline writes into WORKDIR/wandb, for `wandb sync`.
"""

import contextlib
import json
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.io import extras
from data_pipeline.io.bounded_json import ParseError, load_json
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.files import replacing
from data_pipeline.io.progress import say

FILE = "wandb.json"
STEP = "train_step"


def check(project: str) -> None:
    """Raise InputError where a project is named and wandb is not installed."""
    if project:
        extras.check(f"config.train.wandb = {project}", "wandb")


class WandbRun:
    """A run at Weights & Biases, new or resumed.

    Where it fails later, a message says so and the training continues without it.
    """

    def __init__(self, project: str, workdir: Path, config: Mapping[str, Any]):
        """Open it. project: PROJECT or ENTITY/PROJECT. config: the recipe, as JSON.

        Raises InputError where Weights & Biases refuses it.
        """
        import wandb

        *entity, name = project.split("/")
        self._wandb, told = wandb, f"config.train.wandb = {project}"
        settings = wandb.Settings(console="off", silent=True)
        try:
            self._run = wandb.init(
                project=name,
                entity=entity[0] if entity else None,
                id=_id(workdir, project),
                resume="allow",
                name=workdir.resolve().name,
                dir=str(workdir),
                config=dict(config),
                settings=settings,
            )
        except wandb.errors.Error as e:
            raise InputError(
                f"{told}: {first_line(e)}; set WANDB_API_KEY, or WANDB_MODE=offline"
            ) from e
        self._open = True
        if self._run.url:
            say(f"cv3jax: Weights & Biases: {self._run.url}")
        with self._going_on():
            self._run.define_metric(STEP, hidden=True)
            self._run.define_metric("*", step_metric=STEP)

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """Record the figures of a line."""
        with self._going_on():
            self._run.log({STEP: step, **numbers})

    def image(self, name: str, step: int, image: np.ndarray) -> None:
        """Show uint8 [H, W, 3]."""
        with self._going_on():
            self._run.log({STEP: step, name: self._wandb.Image(image)})

    def close(self) -> None:
        """Send what is left."""
        with self._going_on():
            self._run.finish()

    @contextlib.contextmanager
    def _going_on(self) -> Iterator[None]:
        """Do what is inside; where it fails, say so once."""
        try:
            yield
        except Exception as e:  # a training of weeks does not end with a page about it
            if self._open:
                say(f"cv3jax: Weights & Biases: {first_line(e)}; the run goes on without it")
            self._open = False


def _id(workdir: Path, project: str) -> str:
    """Return the id of the run, which is new where there is none of this project yet."""
    path = workdir / FILE
    try:
        known = load_json(path)
        if known["project"] == project and isinstance(known["id"], str):
            return known["id"]
    except FileNotFoundError:
        pass
    except (OSError, ParseError, KeyError, TypeError) as e:
        raise InputError(f"{path} is damaged: {first_line(e)}; remove it, for a new run") from e
    made = secrets.token_hex(4)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps({"project": project, "id": made}) + "\n")
    return made
