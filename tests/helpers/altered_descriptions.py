"""Alter the description of a packaged cascade, one field at a time, in every wrong way.

A text after the colon of a case is JSON as it stands in the file.
"""

import copy
import functools
import json
import shutil
from pathlib import Path
from typing import Any

from cv3jax.checkpoints import cascades

Path_ = tuple[str, ...]
NAME = "scenes"  # it is distilled, so that it has every field but the preview
# what no field may be, and what no number may be
ANYWHERE = ("null", "true", "[]", "{}", '"x"', '"os.system"', "NaN", "Infinity", "1e999")
NUMBERS = ("-1", "-16", "-1e300", "1e300", "-Infinity", str(2**40), str(10**20), "9" * 400)
WHOLE = (*NUMBERS, "0", "1.5", "1.0")
SIZES = ("channels", "res_blocks", "head_dim", "groups", "out_channels", "z_channels", "patch")
SIZES += ("vocab", "layers", "heads", "ff", "buckets", "factor", "image_size", "text_width")
MODELS: tuple[Path_, ...] = (
    ("vae", "model"),
    ("t5", "model"),
    ("stages", "base", "model"),
    ("stages", "relay", "model"),
)
STAGE: Path_ = ("stages", "base")
OWN: dict[str, tuple[str, ...]] = {  # more that a field may not be, by its name
    "format": ("0", "3", "1.0"),
    "channels": ("32", "7", "65", "1000000"),
    "channel_mult": ("[1]", "[1, 2, 4]", "[1, 1.5]", "[0, 0]", "[1, -2]", '"12"', "[[1], 2]"),
    "res_blocks": ("2", "1000000"),
    "depth": ("[1]", "[0, 0, 1]", "[0, 2]", "[1, 1]", "[0, -1]", "[0, 1000000]", "[0, null]"),
    "mid_depth": ("0", "2", "1000000"),
    "head_dim": ("7", "65", "1000000"),
    "groups": ("7", "48", "1000000"),
    "out_channels": ("4", "1000000"),
    "z_channels": ("4", "1000000"),
    "w_dim": ("0", "2", "256", "1000000"),
    "remat": ('"None"', '"blocks"', "0"),
    "dtype": ('"complex64"', '"float16"', '"int8"', '"object"', "32"),
    "patch": ("2", "8", "1000000"),
    "mid_attention": ("true", "0", "1"),
    "vocab": ("256", "10000000"),
    "layers": ("1", "1000000"),
    "heads": ("2", "8", "1000000"),
    "ff": ("128", "100000000"),
    "length": ("1", "4097", "1000000000"),
    "scale": ("0", "1e-300", "[1.0]"),
    "preview": ("[[1, 2, 3]]", "[[1, 2]]", '"x"', "[[NaN, 0, 0]]", "[[1e300, 0, 0]]", "{}"),
    "kind": ('"relay"', '"base"', '"Base"', '"distilled"'),
    "prediction": ('"V"', '"v_prediction"', '"epsilon"', '"x0"', '"sample"', "0"),
    "factor": ("4", "16", "1000000"),
    "image_size": ("33", "8", "-32", "72", "16400"),
    "start": ("1001", "5000"),
    "steps": ("5", "1001", "1000000000"),
    "guidance": ("0.5", "7.5", "101"),
    "eta": ("1.5", "-0.1"),
    "form": ('"Released"', '"ddim"'),
    "blur": ('"linear"', '"Linear"', "0"),
    "text_width": ("64", "127"),
    "w": (
        "[1]",
        "[1, 2, 3]",
        "[3, 1]",
        "[-1, 3]",
        "[1, NaN]",
        '["1", "3"]',
        "[1, true]",
        "[1, 101]",
    ),
}
OPTIONAL = {"preview", "w"}  # null is one of their values


@functools.cache
def content(name: str = NAME) -> dict[str, Any]:
    """Return the content of cascade.json of a packaged cascade, without its digest."""
    value = json.loads((cascades.PACKAGED / name / cascades.CASCADE).read_text())
    value.pop(cascades.DIGEST, None)
    return value


def section_of(value: dict[str, Any], place: Path_) -> dict[str, Any]:
    """Return the section at a place of a description."""
    for name in place:
        value = value[name]
    return value


def places(value: dict[str, Any]) -> list[tuple[Path_, Any]]:
    """Return (path, value) of every field of a description, sections too."""
    found = []
    for name, inner in value.items():
        found.append(((name,), inner))
        if isinstance(inner, dict):
            found += [((name, *path), one) for path, one in places(inner)]
    return found


def cases() -> dict[str, tuple[Path_, str | None]]:
    """Return the alterations by name: (path of a field, its JSON; None: the field is removed)."""
    found: dict[str, tuple[Path_, str | None]] = {}
    whole = copy.deepcopy(content())
    whole["vae"]["preview"] = [[0.0] * 3] * 9
    for path, value in places(whole):
        name = path[-1]
        wrong = list(ANYWHERE) if name not in OPTIONAL else [x for x in ANYWHERE if x != "null"]
        if type(value) is bool:
            wrong.remove("true")
        elif isinstance(value, int):
            wrong += WHOLE
        elif isinstance(value, float):
            wrong += NUMBERS
        wrong += OWN.get(name, ())
        for text in fitting(path, value, wrong):
            found[f"{'.'.join(path)}: {text[:24]}"] = (path, text)
    found |= {f"{'.'.join(path)}: removed": (path, None) for path in required(whole)}
    for place in ((), *MODELS, STAGE, (*STAGE, "distilled"), ("vae",), ("t5",)):
        for name in ("name", "parent", "attend", "gather", "note", "../x", "\u001b[31m"):
            found[f"{'.'.join((*place, name))}: unknown"] = ((*place, name), '"x"')
    return found


def fitting(path: Path_, value: Any, wrong: list[str]) -> list[str]:
    """Return those of the wrong values that are wrong at this path."""
    right = {("stages",): {"{}"}, ("vae", "model", "groups"): {"0"}}.get(path, set())
    right |= {"blur": {"null"}, "eta": {"0"}}.get(path[-1], set())
    right |= {json.dumps(value)}
    return [text for text in dict.fromkeys(wrong) if text not in right]


def required(whole: dict[str, Any]) -> list[Path_]:
    """Return the paths of fields that may not be missing."""
    sections = (("vae",), ("t5",), ("stages", "base"), ("stages", "relay"))
    free = {"preview", "blur", "distilled"}
    found = [
        (*place, name)
        for place in sections
        for name in section_of(whole, place)
        if name not in free
    ]
    steps = [("stages", "base", "distilled", name) for name in ("steps", "w")]
    return [("format",), ("stages",), *found, *steps]


def altered(path: Path_, text: str | None, name: str = NAME) -> str:
    """Return the text of cascade.json with one field changed or removed."""
    value = copy.deepcopy(content(name))
    section = section_of(value, path[:-1])
    if text is None:
        del section[path[-1]]
        return json.dumps(value)
    section[path[-1]] = "\0"
    return json.dumps(value).replace(json.dumps("\0"), text)


def copied(directory: Path, name: str = NAME) -> Path:
    """Return a copy of a packaged cascade by links, whose description can be changed."""
    shutil.copytree(cascades.PACKAGED / name, directory, copy_function=link)
    (directory / cascades.CASCADE).unlink()
    return directory


def link(source: str, target: str) -> None:
    """Link a file instead of copying it."""
    Path(target).symlink_to(source)
