"""Fuzz the readers of settings and of other small files, JSON and YAML.

python tests/fuzz/settings.py --seconds 600
"""

import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
import campaign
import kept_files

TOKENS = ("&a ", "*a", "<<: ", "<<: *a", "!!int ", "!!float ", "!!bool ", "!!binary ", "!!set ")
TOKENS += (
    "!!timestamp ",
    "!!python/name:os.system ",
    "? ",
    "- ",
    ": ",
    "|\n",
    ">-\n",
    "%YAML 1.1\n",
)
TOKENS += ("---\n", "...\n", "\t", "0x_", "1:60:60", ".inf", ".nan", "2001-99-99", "0b2", "@", "`")
TOKENS += ("[" * 40, "{a: " * 40, "9" * 200, "1" + ":59" * 99, "#", "'", '"', "\n", "\n ", "=")
ALL = {**kept_files.READERS, **kept_files.LINES}


def make(folder: Path) -> campaign.Make:
    """Return the function that alters the content of one of the files."""

    def alter(rng: random.Random) -> tuple[str, Callable[[], object]]:
        name = rng.choice(list(ALL))
        file, read, value = ALL[name]
        if rng.random() < 0.9:
            value = campaign.changed(rng, value)
        is_yaml, tokens = file.endswith(".yaml"), campaign.TOKENS
        text = json.dumps(value)
        if is_yaml:
            tokens = (*tokens, *TOKENS)
            flow = rng.choice([None, True, False])
            text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
        if rng.random() < 0.25:
            text = campaign.garbled(rng, text, tokens)
        if name in kept_files.LINES and rng.random() < 0.8:
            text = "\n".join([json.dumps(kept_files.BEGIN), text, json.dumps(kept_files.LINE), ""])
        place = folder / name.replace(" ", "_") / file  # apart, for what a reader has beside it
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(text.encode(errors="surrogatepass"))
        return f"{name}: {text}", lambda: read(folder / name.replace(" ", "_"))

    return alter


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        code = campaign.run(make(Path(folder)))
    sys.exit(code)
