"""Count the pictures of an ablation that show what their prompts name, as written and expanded.

    python examples/expansion/score.py runs/ablation

The pictures are those of `cv3jax sample --expand-ablation` by a cascade of the scenes. A picture is
right if it has as many things as the prompt names, each with the shape, and with the colour, size
and texture where the prompt names one, and the background if the prompt names it. Their places are
not compared.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from data_pipeline.scenes.named import named, shows
from data_pipeline.scenes.vision import see


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
