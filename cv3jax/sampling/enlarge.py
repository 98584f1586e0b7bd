"""Enlarge pictures from files, and write what became of them."""

import dataclasses
import hashlib
import sys
from pathlib import Path
from typing import Any

from PIL import Image

from cv3jax.cascade.automatic_tiles import settings_that_fit
from cv3jax.cascade.memory import Pictures, planned
from cv3jax.cascade.pipeline import load
from cv3jax.cascade.sizes import Size, enlarged_sizes
from cv3jax.cascade.upscaling import Enlarging, layers_of, upscale
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.distributed.backend import waiting
from cv3jax.distributed.mesh import choose_mesh
from cv3jax.sampling.batches import batch_width, steps_on
from cv3jax.sampling.inputs import MAX_SIDE
from cv3jax.sampling.png_record import Checkpoint
from cv3jax.sampling.upscale_metadata import Source, upscaling
from cv3jax.sampling.vocabulary import say_unknown
from data_pipeline.images.decode import MAX_IMAGE_BYTES, open_image
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError

PARTS = ("relay", "t5", "vae")


def enlarge(
    source: Path,
    pictures: list[tuple[Path, str]],
    out: Path,
    how: Enlarging,
    *,
    attention: str,
    metadata: bool,
) -> dict[str, Any]:
    """Enlarge pictures [(file, prompt)] with the cascade at `source` into `out`.

    Returns the figures. All files are read before anything is written. metadata: whether each PNG
    says what it was made from.

    Raises InputError on a file, a size or settings that cannot be.
    """
    description = cascades.read_cascade(source)[1]
    how.check(description)
    mesh = choose_mesh(None, sys.maxsize if how.settings.tile else 1)  # tiles occupy all devices
    width = batch_width(1, mesh, 1)
    plan, opened = planned(description, PARTS, mesh, attention), []
    for path, prompt in pictures:
        try:
            image, digest = read(path)
            layers = layers_of(image, description)
            first = Size(*layers.colours.shape[:2])
            sizes = enlarged_sizes(description, first, first.times(how.factor))
        except InputError as e:
            raise InputError(f"--image {path}: {e}") from e
        with waiting(f"checking that {sizes[-1]} pixels fit into memory"):
            drawn = Pictures(width, sizes, given=True)
            settings = settings_that_fit(plan, drawn, relay=how.settings)[1]
        chosen = dataclasses.replace(how, settings=settings)
        opened.append((Source(path.name, digest), path, prompt, layers, chosen))
    checkpoint = Checkpoint(source.name, parts_fingerprint(source, ("vae", "t5", "relay")))
    with waiting(f"loading {source}"):
        cascade = load(source, PARTS, mesh, attention)
    say_unknown(cascade.tokenize, [prompt for _, prompt in pictures])
    made = []
    with progress.bar(len(opened), "upscale", "picture") as bar:
        cascade = cascade.with_progress(steps_on(bar))
        for given, path, prompt, layers, chosen in opened:
            result = upscale(cascade, layers, prompt, chosen)
            size = layers.size.times(how.factor)
            record = upscaling(description, checkpoint, given, prompt, chosen, size)
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
                    "prompt": prompt,
                    "size": [result.image.height, result.image.width],
                    "tile": chosen.settings.tile,
                    "colour_drift": result.drift,
                }
            )
    print(f"{len(made)} picture{'s' * (len(made) > 1)} in {out}", file=sys.stderr)
    return {"images": made, "factor": how.factor, "strength": how.settings.strength}


def read(path: Path) -> tuple[Image.Image, str]:
    """Return (the picture in a file, with only its header read; the file's SHA-256).

    Raises InputError where it is no picture, or has more than MAX_SIDE pixels per side.
    """
    try:
        if not path.is_file():
            raise InputError("is not a file; give a picture")
        with path.open("rb") as file:
            data = file.read(MAX_IMAGE_BYTES + 1)
        image = open_image(data)
    except OSError as e:
        raise InputError(e.strerror or str(e)) from e
    if max(image.size) > MAX_SIDE:
        width, height = image.size
        raise InputError(f"{height}×{width} (height×width): at most {MAX_SIDE} pixels per side")
    return image, hashlib.sha256(data).hexdigest()
