"""Compare the sizes in a description with the arrays that are stored, before anything is built.

Only the arrays' names and shapes are read, without JAX. Fields that leave no mark on any shape,
such as `groups`, have their ranges alone. Whoever loads a part compares all of its shapes again.
"""

import functools
import itertools
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.description_checks import MODELS
from cv3jax.checkpoints.description_fields import UNET, filled
from data_pipeline.io.bounded_json import Limits, parse_json
from data_pipeline.io.regular_files import check_files

Path_ = tuple[str, ...]
Shapes = Mapping[Path_, tuple[int, ...]]
_LIMITS = Limits(bytes=2**16)  # of the description of one array
_MANIFEST = 2**26  # bytes of what names a tree's files, which is read whole
# numbers from which a part is compared with its files, and most numbers a stored byte; random ones
# take about three bytes each
_LARGE, _PACKED = 2**26, 100


def differing(
    description: CascadeDescription, place_of: Callable[[str], tuple[Path, Path_]]
) -> str | None:
    """Return the first field whose value is not that of the stored arrays, in words, or None.

    Arrays that are far larger than their files are a lie, too.

    place_of: part → (the orbax tree that holds it, the path within it). Parts that are missing or
    damaged are left to their readers.
    """
    for part in description.parts:
        place, within = place_of(part)
        shapes = stored_shapes(place, within)
        if not shapes:
            continue
        if problem := _bloated(place, shapes):
            return f"{part} {problem}"
        section = description.section(part)
        said = filled(section.model, MODELS.get(part, UNET))
        if part in description.stages:
            said["text_width"] = section.text_width
        for field, value in _RULES.get(part, _unet)(shapes).items():
            ours = list(said[field]) if isinstance(said[field], tuple) else said[field]
            if ours != value:
                return f"{field} of {part} is {ours}, but its stored arrays have {value}"
    return None


def _bloated(place: Path, shapes: Shapes) -> str | None:
    """Return in words that arrays would unpack to far more than trained ones do, or None."""
    elements = sum(math.prod(shape) for shape in shapes.values())
    if elements <= _LARGE:
        return None
    stored = sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
    if elements <= _PACKED * stored:
        return None
    return f"would unpack {elements:,} numbers from {stored:,} bytes"


def stored_shapes(place: Path, within: Path_ = ()) -> Shapes:
    """Return the shapes of the arrays of an orbax tree, or of what is `within` it, by their paths.

    It is empty where there is no tree, or one that cannot be read.
    """
    try:
        about = (place / "manifest.ocdbt").stat()
    except OSError:
        return {}
    # tensorstore would wait for a pipe
    check_files(file for file in place.rglob("*") if not file.is_dir())
    check_files([place / "manifest.ocdbt"], _MANIFEST)
    return _read(place.resolve(), within, (about.st_mtime_ns, about.st_size, about.st_ino))


@functools.lru_cache(maxsize=32)  # a command reads the description of its cascade several times
def _read(place: Path, within: Path_, version: tuple[int, ...]) -> Shapes:
    import tensorstore

    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{place}/"}}
    end = "/.zarray"
    try:
        store = tensorstore.KvStore.open(spec).result()
        names = [name.decode() for name in store.list().result()]
        names = [name for name in names if name.endswith(end)]
        read = [store.read(name) for name in names]
        about = [parse_json(bytes(each.result().value), _LIMITS) for each in read]
        shapes = {
            tuple(name.removesuffix(end).split(".")): tuple(map(_side, one["shape"]))
            for name, one in zip(names, about, strict=True)
        }
    except (ValueError, LookupError, TypeError):
        return {}
    deep = len(within)
    return {path[deep:]: shape for path, shape in shapes.items() if path[:deep] == within}


def _side(value: Any) -> int:
    if type(value) is not int:
        raise ValueError("a shape is no list of whole numbers")
    return value


def _unet(shapes: Shapes) -> dict[str, Any]:
    """Return the fields of a UNet, and its text width, as far as its arrays show them."""
    stages = _count(shapes, "down_{}_0", "conv_in", "kernel")
    first = shapes.get(("conv_in", "kernel"), ())
    last = shapes.get(("conv_final", "kernel"), ())
    if len(first) != 4 or len(last) != 4 or not stages or not first[-1]:
        return {}
    names = [f"down_{stage}_0" for stage in range(stages)]
    widths = [_side_of(shapes, -1, name, "conv_out", "kernel") for name in names]
    return {
        "channels": first[-1],
        "out_channels": last[-1],
        "channel_mult": _multiples(widths, first[-1]),
        "res_blocks": _count(shapes, "down_0_{}", "conv_in", "kernel"),
        "depth": [_blocks(shapes, name) for name in names],
        "mid_depth": _blocks(shapes, "mid_0"),
        "w_dim": _side_of(shapes, 0, "w_proj", "kernel"),
        **_text_width(shapes),
    }


def _text_width(shapes: Shapes) -> dict[str, Any]:
    end = ("cross_attention", "k", "kernel")
    read = next((shape for path, shape in shapes.items() if path[-3:] == end), ())
    return {"text_width": read[1]} if len(read) == 3 else {}


def _blocks(shapes: Shapes, name: str) -> int:
    return _side_of(shapes, 0, f"{name}_transformer", "blocks", "cross_attention", "k", "kernel")


def _autoencoder(shapes: Shapes) -> dict[str, Any]:
    """Return the fields of an autoencoder as far as its arrays show them."""
    stages = _count(shapes, "down_{}_0", "conv_in", "kernel", within=("encoder",))
    first = shapes.get(("encoder", "conv_in", "kernel"), ())
    last = shapes.get(("post_quant", "kernel"), ())
    if len(first) != 4 or len(last) != 4 or not stages or not first[-1]:
        return {}
    names = [f"down_{stage}_0" for stage in range(stages)]
    widths = [_side_of(shapes, -1, "encoder", name, "conv_out", "kernel") for name in names]
    found = {
        "channels": first[-1],
        "channel_mult": _multiples(widths, first[-1]),
        "res_blocks": _count(shapes, "down_0_{}", "conv_in", "kernel", within=("encoder",)),
        "z_channels": last[-1],
        "mid_attention": ("encoder", "mid", "attention", "q", "kernel") in shapes,
        "patch": next((n for n in range(1, 65) if 3 * n * n == first[2]), None),
    }
    # of the groups, arrays show only that there are none
    return found if ("encoder", "norm_out", "scale") in shapes else {**found, "groups": 0}


def _t5(shapes: Shapes) -> dict[str, Any]:
    """Return the fields of a text encoder as far as its arrays show them."""
    embed, q = shapes.get(("embed", "embedding"), ()), shapes.get(("layers", "q", "kernel"), ())
    ff, bias = shapes.get(("layers", "ff_in", "kernel"), ()), shapes.get(("relative_bias",), ())
    if [len(shape) for shape in (embed, q, ff, bias)] != [2, 3, 3, 2] or not bias[1]:
        return {}
    return {
        "vocab": embed[0],
        "channels": embed[1],
        "layers": q[0],
        "ff": ff[2],
        "buckets": bias[0],
        "heads": bias[1],
        "head_dim": q[2] // bias[1],
    }


_RULES = {"vae": _autoencoder, "t5": _t5}  # others are UNets


def _multiples(widths: list[int], channels: int) -> list[int | float]:
    return [width // channels if width % channels == 0 else width / channels for width in widths]


def _count(shapes: Shapes, name: str, *rest: str, within: Path_ = ()) -> int:
    """Return how many modules there are whose names differ in a number from 0 on."""
    numbers = itertools.count()
    return next(n for n in numbers if (*within, name.format(n), *rest) not in shapes)


def _side_of(shapes: Shapes, axis: int, *path: str) -> int:
    """Return a side of an array; 0 where it is missing."""
    shape = shapes.get(path, ())
    return shape[axis] if shape else 0
