"""Judging whether a picture shows what its caption says.

`vision` looks at the picture without the caption, and this module compares.

count       as many things as the caption names
background  as captioned
colour, shape, size
            what is seen is what is captioned, in any place; wrong when the count is
position    one thing: nearest to the captioned place. Two: what is seen on the left matches what is
            captioned there, and on the right, in strictly more of colour, shape and size than the
            other way round ("binding"); and they are in their own halves at about the middle
            height, or, in a relation, clearly next to each other
all         all of these, and each thing exactly as captioned at its place
detail      pictures of 128² and above: every thing's texture and outline as captioned at its place.
            It does not depend on the other properties, but the count must be right
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipeline.io.errors import InputError, counted
from data_pipeline.scenes import grammar
from data_pipeline.scenes.vision import Seen, Thing, see

PROPERTIES = ("count", "colour", "shape", "size", "position", "background")
DETAILS = ("texture", "outline")  # `detail` is both
_PLACED = 0.085  # largest distance of one thing's centre from its place; places are 0.22 apart
_MIDDLE = 0.16  # largest distance of two things from the middle height; scenes: 0.015
_HALF = 0.04  # smallest distance of their centres from the middle line; scenes: 0.235
_BESIDE = 0.12  # smallest distance of two things next to each other; scenes: at least 0.47


def judge(image: np.ndarray, caption: str, new: tuple[str, ...] = ()) -> dict[str, bool]:
    """Return {name: whether it is right} for PROPERTIES, "all" and, from 128² on, "detail".

    image: uint8 [S, S, 3]. new: those of `grammar.NEW_COLOURS` that a thing may have too.

    Raises:
        InputError: it is not such an image, or not a caption of the scenes' grammar.
    """
    return compare(see(image, new), caption)


def compare(seen: Seen, caption: str) -> dict[str, bool]:
    """Return what `judge` returns for a picture that shows `seen`.

    Raises:
        InputError: it is not a caption of the scenes' grammar.
    """
    wanted = grammar.parse(caption)
    objects, things = wanted["objects"], seen.things
    right = {"count": len(things) == len(objects)}
    for key in ("colour", "shape", "size"):
        right[key] = right["count"] and Counter(getattr(t, key) for t in things) == Counter(
            o[key] for o in objects
        )
    right["position"] = right["count"] and _position(wanted["layout"], objects, things)
    right["background"] = seen.background == wanted["background"]
    exact = right["count"] and all(
        _matches(t, o) == 3 for t, o in zip(things, objects, strict=False)
    )
    right["all"] = all(right.values()) and exact
    if seen.closely:
        right["detail"] = right["count"] and all(
            getattr(t, key) == o[key]
            for t, o in zip(things, objects, strict=False)
            for key in DETAILS
        )
    return {key: bool(value) for key, value in right.items()}


def _matches(thing: Thing, wanted: dict[str, Any]) -> int:
    return sum(getattr(thing, key) == wanted[key] for key in ("colour", "shape", "size"))


def _position(layout: str, objects: Sequence[dict[str, Any]], things: Sequence[Thing]) -> bool:
    """Return whether the things are where the objects should be, both from left to right.

    There are as many things as objects.
    """
    if layout == "one":
        far = {
            name: np.hypot(things[0].x - x, things[0].y - y)
            for name, (x, y) in grammar.ONE_POSITIONS.items()
        }
        return (
            min(far, key=far.get) == objects[0]["position"]
            and far[objects[0]["position"]] < _PLACED
        )
    left, right = things
    bound = sum(_matches(t, o) for t, o in zip(things, objects, strict=False)) > sum(
        _matches(t, o) for t, o in zip(things, objects[::-1], strict=False)
    )
    if layout == "relation":
        return bound and right.x - left.x > _BESIDE
    return (
        bound
        and left.x < 0.5 - _HALF
        and right.x > 0.5 + _HALF
        and all(abs(t.y - 0.5) < _MIDDLE for t in things)
    )


def altered_rates(
    images: Sequence[np.ndarray], captions: Sequence[str], seed: int
) -> dict[str, float]:
    """Return {property: the share of images that are rejected after the caption was altered in it}.

    The judge must reject the image in that very property. Where all images have 128² and above,
    texture and outline are included; they must be rejected in "detail". Images whose caption cannot
    be altered so do not count; the share is NaN where none can.

    Raises:
        InputError: as `judge`; or there is no image, or not one caption for each.
    """
    if not len(images) or len(images) != len(captions):
        raise InputError(
            "the judge needs one caption per image and at least one, not"
            f" {counted(len(images), 'image')} and {counted(len(captions), 'caption')}"
        )
    seen = [see(image) for image in images]
    rejected = {}
    for number, key in enumerate((*PROPERTIES, *(DETAILS if all(s.closely for s in seen) else ()))):
        said = []
        for i, (shown, text) in enumerate(zip(seen, captions, strict=False)):
            other = altered(text, key, np.random.default_rng([seed, number, i]))
            if other is not None:
                said.append(not compare(shown, other)["detail" if key in DETAILS else key])
        rejected[key] = float(np.mean(said)) if said else float("nan")
    return rejected


def altered(caption: str, property: str, rng: np.random.Generator) -> str | None:
    """Return a caption that differs in one of PROPERTIES or DETAILS alone, or None.

    None where the grammar has no such caption. count: one object less, or one more, which may move
    the other aside. position: another place; for two objects, their places are exchanged. colour,
    shape, size, texture, outline: that of one object changes.

    Raises:
        InputError: it is not a caption of the scenes' grammar, or there is no such property.
    """
    wanted = grammar.parse(caption)
    objects = [dict(o) for o in wanted["objects"]]
    background, layout = wanted["background"], wanted["layout"]
    one = objects[rng.integers(len(objects))]
    values = {
        "colour": grammar.COLOURS,
        "shape": grammar.SHAPES,
        "size": tuple(grammar.SIZES),
        "texture": (None, *grammar.TEXTURES),
        # white on white would be invisible
        "outline": (None, *(o for o in grammar.OUTLINES if o != background)),
    }
    if property in values:
        one[property] = _other(rng, values[property], one[property])
    elif property == "background":
        background = _other(
            rng,
            [b for b in grammar.BACKGROUNDS if b not in {o["outline"] for o in objects}],
            background,
        )
    elif property == "position" and layout == "one":
        one["position"] = _other(rng, tuple(grammar.ONE_POSITIONS), one["position"])
    elif property == "position":
        if all(objects[0][key] == objects[1][key] for key in ("colour", "shape", "size")):
            return None  # exchanging equal objects changes nothing
        objects = [
            dict(o, position=place["position"])
            for o, place in zip(objects[::-1], objects, strict=False)
        ]
    elif property == "count" and layout == "one":
        layout = "pair"
        more = dict(
            one,
            colour=_other(rng, grammar.COLOURS, one["colour"]),
            shape=_other(rng, grammar.SHAPES, one["shape"]),
        )
        first = one["position"] == "on the left" or (
            one["position"] != "on the right" and rng.random() < 0.5
        )
        objects = [
            dict(o, position=p)
            for o, p in zip(
                (one, more) if first else (more, one), grammar.PAIR_POSITIONS, strict=False
            )
        ]
    elif property == "count":
        left = one is objects[0]
        layout, objects = "one", [dict(one, position="on the left" if left else "on the right")]
    else:
        raise InputError(
            f"there is no property {property!r}; give one of {', '.join((*PROPERTIES, *DETAILS))}"
        )
    made = tuple(grammar.Object(**o, cx=0.0, cy=0.0, radius=0.0) for o in objects)
    return grammar.caption(grammar.Scene(background, layout, made))


def _other(rng: np.random.Generator, options: Sequence, than: Any) -> Any:
    options = [o for o in options if o != than]
    return options[rng.integers(len(options))]
