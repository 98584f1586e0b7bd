"""What a picture was drawn from, in its PNG: as JSON, and as the `parameters` of other programs.

`parameters` is the text that AUTOMATIC1111's web UI writes and that many viewers show. The JSON has
all that `cv3jax sample --from-png` takes to draw the picture again.
"""

import dataclasses
import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cv3jax import __version__
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size, as_size
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.description_checks import STAGES
from cv3jax.sampling.inputs import LAST_SEED, check_prompt
from cv3jax.sampling.jobs import Job
from data_pipeline.expansion.result import Expansion
from data_pipeline.images.decode import MAX_IMAGE_BYTES, open_image
from data_pipeline.io.errors import InputError

KEY, PARAMETERS = "cv3jax", "parameters"
FORMAT = 1
MAX_TEXT = 65_536  # characters of the JSON
FIELDS = ("steps", "guidance", "eta", "form")  # of a stage


@dataclasses.dataclass(frozen=True)
class Drawing:
    """What a picture was drawn from.

    given: what came from files in place of what the seed draws, "image" and "noise"; such a picture
    cannot be drawn again from its PNG alone.
    """

    prompt: str
    seed: int
    size: Size
    stages: dict[str, dict[str, Any]]  # FIELDS by stage
    checkpoint: str  # its name
    fingerprint: str  # SHA-256 of the parts that drew it
    tile: int = 0
    given: tuple[str, ...] = ()
    expansion: Expansion | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        value: dict[str, Any] = {
            "format": FORMAT,
            "program": f"cv3jax {__version__}",
            "prompt": self.prompt,
            "seed": self.seed,
            "size": list(self.size),
            **self.stages,
            "checkpoint": {"name": self.checkpoint, "fingerprint": self.fingerprint},
        }
        if self.tile:
            value["tile"] = self.tile
        if self.given:
            value["given"] = list(self.given)
        if self.expansion is not None:
            value["expansion"] = self.expansion.to_json()
        return value

    def parameters(self) -> str:
        """Return the prompt and the settings as AUTOMATIC1111's web UI writes them."""
        base = self.stages.get("base") or next(iter(self.stages.values()))
        text = self.prompt if self.expansion is None else self.expansion.text
        fields = {
            "Steps": base["steps"],
            "Sampler": "Euler a" if base["eta"] else "Euler",
            "CFG scale": f"{base['guidance']:g}",
            "Seed": self.seed,
            "Size": f"{self.size.width}x{self.size.height}",
            "Model hash": self.fingerprint[:10],
            "Model": self.checkpoint.replace(",", " "),
        }
        if "relay" in self.stages and "base" in self.stages:
            fields["Hires steps"] = self.stages["relay"]["steps"]
            fields["Hires CFG Scale"] = f"{self.stages['relay']['guidance']:g}"
        fields["Version"] = f"cv3jax {__version__}"
        return f"{text}\n{', '.join(f'{name}: {value}' for name, value in fields.items())}"

    def chunks(self) -> dict[str, str]:
        """Return the texts of a PNG by their keywords."""
        return {
            PARAMETERS: self.parameters(),
            KEY: json.dumps(self.to_json(), ensure_ascii=False, sort_keys=True),
        }


@dataclasses.dataclass(frozen=True)
class Record:
    """What all pictures of a command were drawn from; `of` adds a picture's own prompt and seed."""

    size: Size
    stages: dict[str, dict[str, Any]]
    checkpoint: str
    fingerprint: str
    tile: int = 0
    given: tuple[str, ...] = ()

    def of(self, job: Job) -> dict[str, str]:
        """Return the texts of a job's PNG by their keywords."""
        own = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return Drawing(job.prompt, job.seed, expansion=job.expansion, **own).chunks()


def stage_fields(
    description: CascadeDescription, given: Mapping[str, SamplerSettings]
) -> dict[str, dict[str, Any]]:
    """Return FIELDS of each stage of `given` as it is sampled."""
    chosen = {name: one.of(description.stages[name]) for name, one in given.items()}
    return {name: {field: getattr(one, field) for field in FIELDS} for name, one in chosen.items()}


def read_drawing(path: Path) -> Drawing:
    """Return what the picture in the PNG at `path` was drawn from.

    Raises InputError where the file is no PNG of cv3jax's, or its record is damaged.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
    except OSError as e:
        raise InputError(f"--from-png {path}: {e.strerror or e}") from e
    try:
        image = open_image(data)
        if image.format != "PNG":
            raise InputError(f"is a {image.format}; give a PNG that cv3jax sample wrote")
        text = _text_of(data)
        if text is None:
            raise InputError(
                "has no record of how it was drawn; give a PNG that cv3jax sample wrote without"
                " --no-metadata"
            )
        return _drawing(json.loads(text))
    # a record of another program may have any fields, of any type
    except (InputError, ValueError, LookupError, TypeError, RecursionError) as e:
        said = str(e) if isinstance(e, InputError) else "its record is damaged"
        raise InputError(f"--from-png {path}: {said}") from e


def _text_of(data: bytes) -> str | None:
    """Return the text of the PNG's iTXt chunk with the keyword KEY, or None.

    Chunks are walked by their sizes, and no other chunk is unpacked.
    """
    at = 8
    while at + 12 <= len(data):
        size, kind = int.from_bytes(data[at : at + 4]), data[at + 4 : at + 8]
        body = data[at + 8 : at + 8 + size]
        if kind == b"iTXt" and body.startswith(KEY.encode() + b"\0"):
            # keyword, 0, is it compressed, by which method, language, 0, keyword again, 0, text
            rest = body[len(KEY) + 1 :]
            if rest[:1] != b"\0" or len(rest) > MAX_TEXT:
                raise InputError("its record is packed or too long; no cv3jax wrote it")
            return rest[2:].split(b"\0", 2)[2].decode()
        at += 12 + size
    return None


def _drawing(value: Any) -> Drawing:
    """Return the drawing in a record, whose every field is checked. Raises ValueError."""
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"its record is not of format {FORMAT}")
    prompt, seed, checkpoint = value["prompt"], value["seed"], value["checkpoint"]
    if check_prompt(prompt) or type(seed) is not int or not 0 <= seed <= LAST_SEED:
        raise ValueError("prompt or seed")
    names = [checkpoint["name"], checkpoint["fingerprint"]]
    tile, given = value.get("tile", 0), tuple(value.get("given", ()))
    stages = {name: _stage(value[name]) for name in STAGES if name in value}
    if type(tile) is not int or not all(isinstance(one, str) for one in (*names, *given)):
        raise ValueError("checkpoint, tile or given")
    if not stages:
        raise ValueError("no stage")
    expansion = value.get("expansion")
    expansion = None if expansion is None else Expansion.from_json(expansion)
    return Drawing(prompt, seed, as_size(value["size"]), stages, *names, tile, given, expansion)


def _stage(value: dict[str, Any]) -> dict[str, Any]:
    """Return the fields of a stage, checked. Raises ValueError."""
    numbers = [value["guidance"], value["eta"]]
    if (
        type(value["steps"]) is not int
        or not all(type(one) in (int, float) and math.isfinite(one) for one in numbers)
        or not isinstance(value["form"], str)
    ):
        raise ValueError("stage")
    return {field: value[field] for field in FIELDS}
