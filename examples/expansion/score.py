"""Count the pictures of an ablation that show what their prompts name, as written and expanded.

    python examples/expansion/score.py runs/ablation

The pictures are those of `cv3jax sample --expand-ablation` by a cascade of the scenes. A picture is
right if it has as many things as the prompt names, each with the shape, and with the colour, size
and texture where the prompt names one, and the background if the prompt names it. Their places are
not compared.
"""

import argparse
import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.scenes import grammar
from data_pipeline.scenes.vision import Seen, see

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


def score(run: Path) -> dict[str, dict[str, int]]:
    """Return {kind: {"right", "pictures"}} of the run's pictures as written and expanded."""
    found: dict[str, Any] = {
        kind: {"right": 0, "pictures": 0} for kind in ("as written", "expanded")
    }
    for line in (run / "index.jsonl").read_text().splitlines():
        entry = json.loads(line)
        kind = found["expanded" if "expansion" in entry else "as written"]
        with Image.open(run / entry["file"]) as picture:
            seen = see(np.asarray(picture.convert("RGB")))
        kind["right"] += shows(seen, *named(entry["prompt"]))
        kind["pictures"] += 1
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("run", type=Path, help="the folder of the run")
    for kind, counts in score(parser.parse_args().run).items():
        print(f"{kind}: {counts['right']} of {counts['pictures']} right")
