"""Captioned scenes by seed: their content and their captions. `render` draws them.

The grammar is small enough that a judge can be exact. It has what the two stages of a cascade
divide between them: number, colours, shapes, sizes and positions survive at half the resolution;
textures and thin outlines do not.

    a large red circle in the center, white background
    a large red striped circle with a thin white outline on the left and a small blue square on the
        right, grey background
    a small pink dotted star to the left of a large cyan cross, black background
"""

import dataclasses
import functools
import re
from typing import Any, Literal

import numpy as np

from data_pipeline.io.errors import InputError

COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
# a colour that no scene has where it is not asked for: what an adapter is taught
NEW_COLOURS = ("teal",)
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
# radius, in sides of the image: at 64² a small shape is more than two latents wide, and two large
# ones fit next to each other
SIZES = {"small": (0.145, 0.155), "large": (0.195, 0.205)}
TEXTURES = ("striped", "dotted")
OUTLINES = ("white", "black")
BACKGROUNDS = ("white", "grey", "black", "beige")
ONE_POSITIONS = {  # words → centre (x, y), in sides of the image, y downwards
    "in the center": (0.5, 0.5),
    "on the left": (0.25, 0.5),
    "on the right": (0.75, 0.5),
    "at the top": (0.5, 0.28),
    "at the bottom": (0.5, 0.72),
}
PAIR_POSITIONS = ("on the left", "on the right")
RELATION = "to the left of"
RELATION_ROWS = (0.28, 0.5, 0.72)  # y of both objects of a relation
LAYOUTS = ("one", "pair", "relation")
SPLITS = ("train", "heldout")
# Never drawn in the train split: one shape of every colour, so that every colour and every shape
# is still learnt.
HELD_OUT = frozenset(
    {
        ("red", "star"),
        ("orange", "ring"),
        ("yellow", "cross"),
        ("green", "circle"),
        ("cyan", "triangle"),
        ("blue", "square"),
        ("purple", "cross"),
        ("pink", "square"),
    }
)
_PAIRS = {
    "train": tuple((c, s) for c in COLOURS for s in SHAPES if (c, s) not in HELD_OUT),
    "heldout": tuple(sorted(HELD_OUT)),
    "any": tuple((c, s) for c in COLOURS for s in SHAPES),
}
_JITTER = 0.015  # largest shift of a centre, each way
Split = Literal["train", "heldout"]


@dataclasses.dataclass(frozen=True)
class Object:
    """One object of a scene. Lengths are in sides of the image; cy grows downwards."""

    size: str
    colour: str
    texture: str | None
    shape: str
    outline: str | None
    position: str  # the words, or "left" / "right" in a relation
    cx: float
    cy: float
    radius: float


@dataclasses.dataclass(frozen=True)
class Scene:
    """The background, the layout and the objects of a picture."""

    background: str
    layout: str  # one of LAYOUTS
    objects: tuple[Object, ...]  # in the order of the caption: the left one first


def sample_scene(
    seed: int,
    index: int,
    *,
    split: Split = "train",
    textured: float = 0.5,
    two: float = 0.6,
    relational: float = 0.2,
    new: str | None = None,
) -> Scene:
    """Return scene number `index` of `seed`: a pure function of its arguments.

    Args:
        seed: at least 0.
        index: at least 0.
        split: "train" never has a (colour, shape) of HELD_OUT; in "heldout" every scene has at
            least one.
        textured: the probability that an object has a texture, an outline or both, a third each.
        two: the probability of two objects.
        relational: the probability that two objects are in a relation instead of each on its side.
        new: one of NEW_COLOURS, which one object of the scene then has, of any shape.
    """
    scene = _sampled(seed, index, split, textured, two, relational)
    if new is None:
        return scene
    rng = np.random.default_rng([SPLITS.index(split), seed, index, 1])
    which, objects = int(rng.integers(len(scene.objects))), list(scene.objects)
    objects[which] = dataclasses.replace(objects[which], colour=new)
    return dataclasses.replace(scene, objects=tuple(objects))


def _sampled(
    seed: int, index: int, split: Split, textured: float, two: float, relational: float
) -> Scene:
    rng = np.random.default_rng([SPLITS.index(split), seed, index])
    background = _pick(rng, BACKGROUNDS)
    if rng.random() >= two:
        position = _pick(rng, tuple(ONE_POSITIONS))
        pair = _pick(rng, _PAIRS[split])
        x, y = (c + rng.uniform(-_JITTER, _JITTER) for c in ONE_POSITIONS[position])
        return Scene(background, "one", (_object(rng, pair, background, textured, position, x, y),))

    first = _pick(rng, _PAIRS[split])
    other_pairs = _PAIRS["train" if split == "train" else "any"]
    # two equal objects would give "X to the left of X"
    second = _pick(rng, tuple(p for p in other_pairs if p != first))
    pairs = (first, second) if rng.random() < 0.5 else (second, first)
    relation = rng.random() < relational
    words = ("left", "right") if relation else PAIR_POSITIONS
    left, right = (
        _object(rng, pair, background, textured, word, 0.0, 0.0)
        for pair, word in zip(pairs, words, strict=True)
    )
    # the words of a relation only give the order
    row = _pick(rng, RELATION_ROWS) if relation else 0.5
    xs, ys = np.array([[0.25, 0.75], [row, row]]) + rng.uniform(-_JITTER, _JITTER, (2, 2))
    placed = tuple(
        dataclasses.replace(o, cx=float(x), cy=float(y))
        for o, x, y in zip((left, right), xs, ys, strict=True)
    )
    return Scene(background, "relation" if relation else "pair", placed)


def _object(
    rng: np.random.Generator,
    pair: tuple[str, str],
    background: str,
    textured: float,
    position: str,
    x: float,
    y: float,
) -> Object:
    texture = outline = None
    if rng.random() < textured:
        kind = rng.integers(3)
        if kind != 1:
            texture = _pick(rng, TEXTURES)
        if kind != 0:
            # white on white would be invisible
            outline = _pick(rng, tuple(o for o in OUTLINES if o != background))
    size = _pick(rng, tuple(SIZES))
    colour, shape = pair
    return Object(
        size,
        colour,
        texture,
        shape,
        outline,
        position,
        float(x),
        float(y),
        float(rng.uniform(*SIZES[size])),
    )


def _pick(rng: np.random.Generator, options: tuple) -> Any:
    return options[rng.integers(len(options))]


def caption(scene: Scene) -> str:
    """Return the one caption of a scene. `parse` is its inverse."""
    nouns = [_noun(o) for o in scene.objects]
    if scene.layout == "relation":
        things = f"{nouns[0]} {RELATION} {nouns[1]}"
    else:
        things = " and ".join(
            f"{noun} {o.position}" for noun, o in zip(nouns, scene.objects, strict=True)
        )
    return f"{things}, {scene.background} background"


def _noun(o: Object) -> str:
    texture = f" {o.texture}" if o.texture else ""
    outline = f" with a thin {o.outline} outline" if o.outline else ""
    return f"a {o.size} {o.colour}{texture} {o.shape}{outline}"


def properties(scene: Scene) -> dict[str, Any]:
    """Return what the caption says, without coordinates, as JSON.

    It is {"background", "layout", "objects": [{"size", "colour", "texture", "shape", "outline",
    "position"}, …]}, where texture and outline may be None. `parse(caption(scene))` equals it.
    """
    objects = [
        {k: v for k, v in dataclasses.asdict(o).items() if k not in ("cx", "cy", "radius")}
        for o in scene.objects
    ]
    return {"background": scene.background, "layout": scene.layout, "objects": objects}


def parse(text: str) -> dict[str, Any]:
    """Return the properties that a caption names.

    Raises:
        InputError: the text is not a caption of this grammar.
    """
    for layout, pattern in _patterns().items():
        if match := pattern.fullmatch(text):
            values = match.groupdict()
            count = 1 if layout == "one" else 2
            objects = [
                {k: values[f"{k}{i}"] for k in ("size", "colour", "texture", "shape", "outline")}
                for i in range(count)
            ]
            for i, o in enumerate(objects):
                o["position"] = (
                    ("left", "right")[i] if layout == "relation" else values[f"position{i}"]
                )
            return {"background": values["background"], "layout": layout, "objects": objects}
    raise InputError(
        f'not a caption of a scene: {text[:120]!r}; give one like "a large red circle in the'
        ' center, white background"'
    )


@functools.cache
def _patterns() -> dict[str, re.Pattern]:
    def group(name: str, words) -> str:
        return f"(?P<{name}>{'|'.join(words)})"

    def noun(i: int) -> str:
        texture = f"(?: {group(f'texture{i}', TEXTURES)})?"
        outline = f"(?: with a thin {group(f'outline{i}', OUTLINES)} outline)?"
        return (
            f"a {group(f'size{i}', SIZES)} {group(f'colour{i}', (*COLOURS, *NEW_COLOURS))}{texture}"
            f" {group(f'shape{i}', SHAPES)}{outline}"
        )

    end = f", {group('background', BACKGROUNDS)} background"
    left, right = (group(f"position{i}", [word]) for i, word in enumerate(PAIR_POSITIONS))
    return {
        "one": re.compile(f"{noun(0)} {group('position0', ONE_POSITIONS)}{end}"),
        "pair": re.compile(f"{noun(0)} {left} and {noun(1)} {right}{end}"),
        "relation": re.compile(f"{noun(0)} {RELATION} {noun(1)}{end}"),
    }


def vocabulary() -> tuple[str, ...]:
    """Return every word that a caption can have, sorted; the comma is not one."""
    phrases = (
        *COLOURS,
        *SHAPES,
        *SIZES,
        *TEXTURES,
        *OUTLINES,
        *BACKGROUNDS,
        *ONE_POSITIONS,
        *PAIR_POSITIONS,
        RELATION,
    )
    return tuple(
        sorted(
            {
                word
                for phrase in (*phrases, "a with thin outline and background")
                for word in phrase.split()
            }
        )
    )
