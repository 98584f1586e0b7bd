"""Whether a picture of a scene shows what a prompt names, where the prompt is no full caption.

A picture is right if it has as many things as the prompt names, each with the shape, and with the
colour, size and texture where the prompt names one, and the background if the prompt names it.
Places are not compared.
"""

import itertools
import re

from data_pipeline.scenes import grammar
from data_pipeline.scenes.vision import Seen

WORDS = {
    **{word: ("colour", word) for word in grammar.COLOURS},
    **{word: ("size", word) for word in grammar.SIZES},
    **dict.fromkeys(("tiny", "little"), ("size", "small")),
    **dict.fromkeys(("big", "huge"), ("size", "large")),
    **{word: ("texture", word) for word in grammar.TEXTURES},
}
NUMBERS = {"two": 2, "three": 3}
_BACKGROUND = re.compile(rf"\b({'|'.join(grammar.BACKGROUNDS)}) background\b")


def named(prompt: str) -> tuple[str | None, list[dict[str, str]]]:
    """Return (the background or None, what is named of each thing) of a prompt."""
    background, things = _BACKGROUND.search(prompt), []
    number, said = 1, {}
    for word in re.findall(r"\w+", prompt.lower()):
        shape = word if word in grammar.SHAPES else word.removesuffix("s")
        number = NUMBERS.get(word, number)
        said |= dict([WORDS[word]]) if word in WORDS else {}
        if shape in grammar.SHAPES:
            things += [{**said, "shape": shape}] * number
            number, said = 1, {}
    return background and background[1], things


def shows(seen: Seen, background: str | None, things: list[dict[str, str]]) -> bool:
    """Return whether a picture shows the background and the things, and no others."""
    if len(seen.things) != len(things) or background not in (None, seen.background):
        return False
    return any(
        all(
            getattr(one, key) == said[key]
            for one, said in zip(order, things, strict=True)
            for key in said
        )
        for order in itertools.permutations(seen.things)
    )
