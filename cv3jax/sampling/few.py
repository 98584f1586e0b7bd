"""Draw the pictures of a few prompts, and a contact sheet of them."""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.cascade.limits import check_trained, relay_passes
from cv3jax.cascade.memory import Pictures, check_fits, planned
from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints import cascades
from cv3jax.distributed.backend import waiting
from cv3jax.distributed.mesh import choose_mesh
from cv3jax.reports.pictures import save_png
from cv3jax.sampling.batches import batch_width, draw_batch, steps_on
from cv3jax.sampling.inputs import read_images, read_noise
from cv3jax.sampling.jobs import Job, slug
from cv3jax.sampling.overview import overview
from cv3jax.sampling.resumable import require
from cv3jax.sampling.vocabulary import say_unknown
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, counted


@dataclasses.dataclass(frozen=True)
class Request:
    """What to draw: `num` pictures per prompt, with seeds that count up from `seed`.

    `base` and `relay`: steps and guidance that replace the checkpoint's. `size`: the side of the
    final pictures; None is one relay pass. `images`: pictures to enlarge, one per prompt or one for
    all. `noise`: a file of noise that replaces the seeds' noise.
    """

    prompts: list[str]
    num: int
    seed: int
    base: SamplerSettings
    relay: SamplerSettings
    size: int | None = None
    images: list[Path] | None = None
    noise: Path | None = None


def read_files(
    cascade: Cascade, source: Path, request: Request
) -> tuple[np.ndarray | None, dict[str, np.ndarray] | None]:
    """Return the pictures to enlarge, uint8 [prompts, side, side, 3], and the noise of a request.

    Raises:
        InputError: they do not fit the cascade, or a part that the request needs is missing.
    """
    require(source, cascade.description, "relay" if request.images else "base")
    images, prompts, size = None, len(request.prompts), request.size
    if request.images:
        given = len(request.images)
        if given not in (1, prompts):
            raise InputError(
                f"{given} --image for {prompts} --prompt; give one for each prompt, or one for all"
            )
        images = read_images(request.images * (prompts // given), cascade.multiple("relay") // 2)
        side = images.shape[1]
    else:
        side = cascade.description.stages["base"].image_size
    passes = cascade.passes(size if size or images is None else 2 * side, side)
    if images is not None and not passes:
        raise InputError(
            f"--size {size}: the picture has that size already; give {2 * side} or more"
        )
    if request.noise is None:
        return images, None
    if passes > 1:
        raise InputError(
            f"--noise {request.noise}: its arrays are for one relay pass, but --size {size} takes"
            f" {passes}; leave --noise out, or give a smaller --size"
        )
    count = request.num * prompts
    shapes = {} if request.images else {"base": (count, *cascade.latent(side))}
    if passes:
        shapes |= dict.fromkeys(("low", "relay"), (count, *cascade.latent(2 * side)))
    return images, read_noise(request.noise, shapes)


def sample_few(
    source: Path, request: Request, out: Path, *, batch: int, mesh: str | None, attention: str
) -> dict[str, Any]:
    """Draw the pictures of a request into `out`. Returns the figures.

    contact_sheet.png shows the pictures of earlier calls too.

    Raises:
        InputError: the request does not fit the checkpoint `source`.
    """
    prompts, num = request.prompts, request.num
    count = num * len(prompts)
    devices = choose_mesh(mesh, count)
    width = batch_width(batch, devices, count)
    description = cascades.read_cascade(source)[1]
    # `read_files` says so where it is needed and missing
    if "base" in description.stages and not request.images:
        check_trained(description, {"base": request.base})
    if request.images or ("base" in description.stages and relay_passes(description, request.size)):
        check_trained(description, {"relay": request.relay})
    plan = planned(description, (), devices, attention)
    images, noise = read_files(plan, source, request)
    side = description.stages["base"].image_size if images is None else images.shape[1]
    size = request.size or (None if images is None else 2 * side)
    drawn = Pictures(width, side, plan.passes(size, side), images is not None)
    with waiting("checking that the pictures fit into memory"):
        check_fits(plan, drawn, request.base, request.relay)
    with waiting(f"loading {source}"):
        cascade = load(source, mesh=devices, attention=attention)
    say_unknown(cascade.tokenize, prompts)
    names = [f"{number:02d}_{slug(prompt)}" for number, prompt in enumerate(prompts)]
    jobs = [
        Job(prompts[n], request.seed + i, f"{names[n]}_{request.seed + i}.png")
        for n in range(len(names))
        for i in range(num)
    ]
    with progress.bar(count, "sample", "picture") as bar:
        cascade = cascade.with_progress(steps_on(bar))
        for begin in range(0, count, width):
            rows = np.arange(begin, min(begin + width, count))
            made = draw_batch(
                cascade,
                [jobs[i] for i in rows],
                width,
                None if images is None else images[rows // num],
                None if noise is None else {name: value[rows] for name, value in noise.items()},
                size=request.size,
                base=request.base,
                relay=request.relay,
            )
            for i, image in zip(rows, made, strict=True):
                save_png(out / jobs[i].file, image)
            bar.update(len(rows))
    sheet = overview(out, dict(zip(names, prompts, strict=True)), [job.file for job in jobs])
    save_png(out / "contact_sheet.png", sheet)
    made = counted(count, "picture")
    print(f"{made} and contact_sheet.png in {out}", file=sys.stderr)
    print(json.dumps([job.file for job in jobs]))
    return {
        "images": [{"file": job.file, "prompt": job.prompt, "seed": job.seed} for job in jobs],
        "sheet": str(out / "contact_sheet.png"),
    }
