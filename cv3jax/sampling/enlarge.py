"""Enlarge pictures from files, and write what became of them."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cv3jax.adapters.applied import applied_to
from cv3jax.adapters.given import LoraFile
from cv3jax.cascade.automatic_tiles import settings_that_fit
from cv3jax.cascade.memory import Pictures, planned
from cv3jax.cascade.pipeline import load
from cv3jax.cascade.upscaling import Enlarging, upscale
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.distributed.backend import waiting
from cv3jax.distributed.mesh import choose_mesh
from cv3jax.sampling.batches import batch_width, steps_on
from cv3jax.sampling.given_pictures import Given
from cv3jax.sampling.png_record import Checkpoint
from cv3jax.sampling.upscale_metadata import Source, upscaling
from cv3jax.sampling.vocabulary import say_unknown
from data_pipeline.io import progress
from data_pipeline.io.objects.places import public
from data_pipeline.io.progress import say

PARTS = ("relay", "t5", "vae")


def enlarge(
    source: Path,
    pictures: list[Given],
    out: Path,
    how: Enlarging,
    *,
    attention: str,
    metadata: bool,
    loras: Sequence[LoraFile] = (),
) -> dict[str, Any]:
    """Enlarge pictures with the cascade at `source` into `out`. Returns the figures.

    metadata: whether each PNG says what it was made from. loras: the relay's adapters.

    Raises InputError on settings that cannot be, and on pictures that do not fit into memory.
    """
    description = cascades.read_cascade(source)[1]
    how.check(description)
    applied = applied_to(loras, description, source)
    records = applied.records(("relay",))
    mesh = choose_mesh(None, sys.maxsize if how.settings.tile else 1)  # tiles occupy all devices
    width = batch_width(1, mesh, 1)
    plan, chosen = planned(description, PARTS, mesh, attention), []
    for one in pictures:
        with waiting(f"checking that {one.sizes[-1]} pixels fit into memory"):
            drawn = Pictures(width, one.sizes, given=True)
            settings = settings_that_fit(plan, drawn, relay=how.settings)[1]
        chosen.append(dataclasses.replace(how, settings=settings))
    found = parts_fingerprint(source, ("vae", "t5", "relay"))
    checkpoint = Checkpoint(source.name, found, loras=records)
    with waiting(f"loading {source}"):
        cascade = applied.change(load(source, PARTS, mesh, attention))
    say_unknown(cascade.tokenize, [one.prompt for one in pictures], adapted=bool(applied.applied))
    made = []
    with progress.bar(len(pictures), "upscale", "picture") as bar:
        cascade = cascade.with_progress(steps_on(bar))
        for one, settled in zip(pictures, chosen, strict=True):
            path, layers = one.path, one.layers
            result = upscale(cascade, layers, one.prompt, settled)
            file, size = Source(path.name, one.sha256), layers.size.times(how.factor)
            record = upscaling(description, checkpoint, file, one.prompt, settled, size)
            result = dataclasses.replace(result, texts=record.chunks())
            target = result.save(out / f"{path.stem}_x{how.factor}.png", metadata=metadata)
            bar.update(1)
            progress.say(
                f"{target.name}: {result.image.height}×{result.image.width} (height×width), colours"
                f" {result.drift['result']:.1f} of 255 from the picture's"
                f" ({result.drift['relay']:.1f} before the colour fix)"
            )
            made.append(
                {
                    "file": target.name,
                    "image": str(path),
                    "prompt": one.prompt,
                    "size": [result.image.height, result.image.width],
                    "tile": settled.settings.tile,
                    "colour_drift": result.drift,
                }
            )
    say(f"{len(made)} picture{'s' * (len(made) > 1)} in {public(out)}")
    return {"images": made, "factor": how.factor, "strength": how.settings.strength}
