"""Fuzz cascade.json: altered descriptions beside the arrays of a packaged cascade.

python tests/fuzz/descriptions.py --seconds 600
"""

import json
import random
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))
import altered_descriptions
import campaign

from cv3jax.cascade.parts import build_model
from cv3jax.cascade.sizes import drawn_sizes
from cv3jax.cascade.stage_network import kv_sharding
from cv3jax.checkpoints import cascades
from cv3jax.diffusion.points import check_points, released_points
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder

NAMES = ("scenes", "scenes_teacher")


def use(directory: Path) -> None:
    """Read a description, and use it as samplers do before they compile."""
    description = cascades.read_cascade(directory)[1]
    if description.vae is not None:
        assert build_model(Autoencoder, description.vae.model).factor >= 1
        assert description.vae.measured > 0
    if description.t5 is not None:
        build_model(T5Encoder, description.t5.model)
    for stage in description.stages.values():
        model = build_model(UNet, stage.model)
        kv_sharding(None, model)
        check_points(released_points(stage.steps, stage.start if stage.kind == "relay" else 1000))
        assert len(model.depth) == len(model.channel_mult)
    if "base" in description.stages:
        drawn_sizes(description)


def make(directories: list[Path]) -> campaign.Make:
    """Return the function that alters the description of one of the directories."""

    def alter(rng: random.Random) -> tuple[str, Callable[[], object]]:
        number = rng.randrange(len(directories))
        value = altered_descriptions.content(NAMES[number])
        if rng.random() < 0.9:
            value = campaign.changed(rng, value)
        text = json.dumps(value)
        if rng.random() < 0.15:
            text = campaign.garbled(rng, text)
        place = directories[number] / cascades.CASCADE
        place.write_bytes(text.encode(errors="surrogatepass"))
        return text, lambda: use(directories[number])

    return alter


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        copies = [altered_descriptions.copied(Path(folder) / name, name) for name in NAMES]
        code = campaign.run(make(copies))
    sys.exit(code)
