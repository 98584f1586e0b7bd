"""Records in PNGs of what pictures were made from: JSON, and the `parameters` of other programs.

`parameters` is the text that AUTOMATIC1111's web UI writes and that many viewers show.
"""

import dataclasses
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cv3jax import __version__
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size, as_size
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.description_fields import STAGES
from cv3jax.diffusion import FORMS
from cv3jax.sampling.inputs import LAST_SEED, check_prompt
from data_pipeline.images.decode import MAX_IMAGE_BYTES, open_image
from data_pipeline.io import kept_fields
from data_pipeline.io.bounded_json import parse_json
from data_pipeline.io.errors import InputError
from data_pipeline.io.regular_files import read_regular

KEY, PARAMETERS = "cv3jax", "parameters"
BASELINE = "drawn_by"  # the field of pictures that another model drew
FORMAT = 1
MAX_TEXT = 65_536  # characters of the JSON
FIELDS = ("steps", "guidance", "eta", "form")  # of a stage
STRENGTH = "strength"  # of a relay that did not start where it was trained to
DTYPES = ("float32", "bfloat16")
# of an adapter in the weights
LORA = {
    "file": kept_fields.text("The name of its file."),
    "sha256": kept_fields.text("The hash of its layers.", 64),
    "stage": kept_fields.one_of("The stage that it changes.", *STAGES),
    "weight": kept_fields.number("What its change is multiplied by.", -100, 100),
}
_LORAS = {"loras": kept_fields.several("Adapters.", kept_fields.section("One.", LORA), 0, 16)}


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What made a picture."""

    name: str
    fingerprint: str  # SHA-256 of the parts that made it
    dtype: str | None = None  # in which it computed, where that is not its own
    loras: Sequence[Mapping[str, Any]] = ()  # LORA of each adapter in its weights

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        value = {"name": self.name, "fingerprint": self.fingerprint, "dtype": self.dtype}
        value["loras"] = [dict(one) for one in self.loras] or None
        return {name: one for name, one in value.items() if one is not None}

    @classmethod
    def from_json(cls, value: Any) -> "Checkpoint":
        """Return the checkpoint in a record. Raises ValueError or another error on others."""
        name, fingerprint, dtype = value["name"], value["fingerprint"], value.get("dtype")
        if not isinstance(name, str) or not isinstance(fingerprint, str):
            raise ValueError("checkpoint")
        if dtype not in (None, *DTYPES):
            raise ValueError("dtype")
        if said := kept_fields.wrong({"loras": value.get("loras", [])}, _LORAS):
            raise ValueError(said)
        return cls(name, fingerprint, dtype, tuple(value.get("loras", ())))


def head(prompt: str, seed: int, size: Size, checkpoint: Checkpoint, tile: int) -> dict[str, Any]:
    """Return the fields that every record has."""
    value = {
        "format": FORMAT,
        "program": f"cv3jax {__version__}",
        "prompt": prompt,
        "seed": seed,
        "size": list(size),
        "checkpoint": checkpoint.to_json(),
    }
    return {**value, "tile": tile} if tile else value


def head_of(value: Any) -> tuple[str, int, Size, Checkpoint, int]:
    """Return (prompt, seed, size, checkpoint, tile) of a record. Raises ValueError or KeyError."""
    prompt, seed, tile = value["prompt"], value["seed"], value.get("tile", 0)
    if check_prompt(prompt) or type(seed) is not int or not 0 <= seed <= LAST_SEED:
        raise ValueError("prompt or seed")
    if type(tile) is not int:
        raise ValueError("tile")
    return prompt, seed, as_size(value["size"]), Checkpoint.from_json(value["checkpoint"]), tile


def stage_fields(
    description: CascadeDescription, given: Mapping[str, SamplerSettings]
) -> dict[str, dict[str, Any]]:
    """Return FIELDS of each stage of `given` as it is sampled."""
    chosen = {name: one.of(description.stages[name]) for name, one in given.items()}
    return {name: {field: getattr(one, field) for field in FIELDS} for name, one in chosen.items()}


def stage_of(value: Any) -> dict[str, Any]:
    """Return the fields of a stage in a record. Raises ValueError or another error on others."""
    numbers = [value["guidance"], value["eta"]]
    if (
        type(value["steps"]) is not int
        or not all(type(one) in (int, float) and math.isfinite(one) for one in numbers)
        or not 0.0 <= value["eta"] <= 1.0  # beyond, a sampler draws what is no number
        or value["form"] not in FORMS
    ):
        raise ValueError("stage")
    strength = value.get(STRENGTH, 1.0)
    if type(strength) is not float or not 0.0 < strength <= 1.0:
        raise ValueError("strength")
    return {field: value[field] for field in FIELDS} | (
        {} if strength == 1.0 else {STRENGTH: strength}
    )


def parameters(
    text: str, head: Mapping[str, Any], stage: Mapping[str, Any], more: Mapping[str, Any]
) -> str:
    """Return a text and settings as AUTOMATIC1111's web UI writes them.

    head: of `head`. stage: fields of the stage that `Steps` and `CFG scale` are of.
    """
    fields = {
        "Steps": stage["steps"],
        "Sampler": "Euler a" if stage["eta"] else "Euler",
        "CFG scale": f"{stage['guidance']:g}",
        "Seed": head["seed"],
        "Size": "{1}x{0}".format(*head["size"]),  # width first, as there
        "Model hash": head["checkpoint"]["fingerprint"][:10],
        "Model": head["checkpoint"]["name"].replace(",", " "),
        **more,
        **_lora_hashes(head["checkpoint"].get("loras", [])),
        "Version": head["program"],
    }
    return f"{text}\n{', '.join(f'{name}: {value}' for name, value in fields.items())}"


def _lora_hashes(loras: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    each = [f"{re.sub('[,:]', ' ', one['file'])}: {one['sha256'][:12]}" for one in loras]
    return {"Lora hashes": '"' + ", ".join(each).replace('"', " ") + '"'} if each else {}


def chunks(value: Mapping[str, Any], parameters: str) -> dict[str, str]:
    """Return the texts of a PNG by their keywords, for a record and its `parameters`."""
    return {PARAMETERS: parameters, KEY: json.dumps(value, ensure_ascii=False, sort_keys=True)}


def read_record(path: Path) -> dict[str, Any]:
    """Return the record in the PNG at `path`; nothing but its format is checked.

    Raises InputError where the file is no PNG of cv3jax's, or ValueError on damaged JSON.
    """
    try:
        data = read_regular(path, MAX_IMAGE_BYTES)
    except OSError as e:
        raise InputError(e.strerror or str(e)) from e
    image = open_image(data)
    if image.format != "PNG":
        raise InputError(f"is a {image.format}; give a PNG that cv3jax sample wrote")
    text = _text_of(data)
    if text is None:
        raise InputError(
            "has no record of how it was drawn; give a PNG that cv3jax sample wrote without"
            " --no-metadata"
        )
    value = parse_json(text)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise InputError(f"its record is not of format {FORMAT}")
    return value


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
