"""What a picture was drawn from, in its PNG.

The record has all that `cv3jax sample --from-png` takes to draw the picture again.
"""

import dataclasses
from pathlib import Path
from typing import Any

from cv3jax.cascade.sizes import Size
from cv3jax.checkpoints.description_checks import STAGES
from cv3jax.sampling import png_record
from cv3jax.sampling.jobs import Job
from cv3jax.sampling.png_record import Checkpoint
from cv3jax.sampling.upscale_metadata import UPSCALE, again
from data_pipeline.expansion.result import Expansion
from data_pipeline.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What a picture was drawn from.

    given: what came from files in place of what the seed draws, "image" and "noise"; such a picture
    cannot be drawn again from its PNG alone.
    """

    prompt: str
    seed: int
    size: Size
    stages: dict[str, dict[str, Any]]  # png_record.FIELDS by stage
    checkpoint: Checkpoint
    tile: int = 0
    given: tuple[str, ...] = ()
    expansion: Expansion | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        value = png_record.head(self.prompt, self.seed, self.size, self.checkpoint, self.tile)
        value |= self.stages
        if self.given:
            value["given"] = list(self.given)
        if self.expansion is not None:
            value["expansion"] = self.expansion.to_json()
        return value

    def parameters(self) -> str:
        """Return the prompt and the settings as AUTOMATIC1111's web UI writes them."""
        base = self.stages.get("base") or next(iter(self.stages.values()))
        text = self.prompt if self.expansion is None else self.expansion.text
        more = {}
        if "relay" in self.stages and "base" in self.stages:
            more["Hires steps"] = self.stages["relay"]["steps"]
            more["Hires CFG Scale"] = f"{self.stages['relay']['guidance']:g}"
        return png_record.parameters(text, self.to_json(), base, more)

    def chunks(self) -> dict[str, str]:
        """Return the texts of a PNG by their keywords."""
        return png_record.chunks(self.to_json(), self.parameters())


@dataclasses.dataclass(frozen=True)
class Record:
    """What all pictures of a command were drawn from; `of` adds a picture's own prompt and seed."""

    size: Size
    stages: dict[str, dict[str, Any]]
    checkpoint: Checkpoint
    tile: int = 0
    given: tuple[str, ...] = ()

    def of(self, job: Job) -> dict[str, str]:
        """Return the texts of a job's PNG by their keywords."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Drawing(job.prompt, job.seed, expansion=job.expansion, **own).chunks()


def read_drawing(path: Path) -> Drawing:
    """Return what the picture in the PNG at `path` was drawn from.

    Raises InputError where the file is no PNG of cv3jax's, its record is damaged, or the picture
    was enlarged from another.
    """
    try:
        value = png_record.read_record(path)
        if UPSCALE in value:
            raise InputError(again(value))
        if png_record.BASELINE in value:
            raise InputError("another model drew it; cv3jax evaluate --model draws with that")
        return _drawing(value)
    # a record of another program may have any fields, of any type
    except (InputError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as e:
        said = str(e) if isinstance(e, InputError) else "its record is damaged"
        raise InputError(f"--from-png {path}: {said}") from e


def _drawing(value: dict[str, Any]) -> Drawing:
    """Return the drawing in a record, whose every field is checked. Raises ValueError."""
    prompt, seed, size, checkpoint, tile = png_record.head_of(value)
    given = tuple(value.get("given", ()))
    stages = {name: png_record.stage_of(value[name]) for name in STAGES if name in value}
    if not all(isinstance(one, str) for one in given):
        raise ValueError("given")
    if not stages:
        raise ValueError("no stage")
    expansion = value.get("expansion")
    expansion = None if expansion is None else Expansion.from_json(expansion)
    return Drawing(prompt, seed, size, stages, checkpoint, tile, given, expansion)
