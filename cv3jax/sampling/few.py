"""Draw the pictures of a few prompts, and a contact sheet of them."""

import dataclasses
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cv3jax.adapters.applied import Loras, applied_to
from cv3jax.adapters.given import LoraFile
from cv3jax.cascade.automatic_tiles import settings_that_fit
from cv3jax.cascade.limits import check_trained
from cv3jax.cascade.memory import Pictures, planned
from cv3jax.cascade.parts import read_tokenizer
from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size, drawn_sizes, multiple_of
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.distributed.backend import waiting
from cv3jax.distributed.mesh import choose_mesh
from cv3jax.reports.pictures import save_png
from cv3jax.sampling.ablation import save_ablation
from cv3jax.sampling.batches import batch_width, draw_batch, steps_on
from cv3jax.sampling.expanding import Expanding
from cv3jax.sampling.inputs import Prompt, read_images, read_noise
from cv3jax.sampling.jobs import Jobs, slug
from cv3jax.sampling.metadata import Record
from cv3jax.sampling.overview import overview
from cv3jax.sampling.png_record import Checkpoint, stage_fields
from cv3jax.sampling.resumable import require
from cv3jax.sampling.texts import Texts
from cv3jax.sampling.vocabulary import say_unknown
from data_pipeline.expansion.result import Expansion
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.figures import tell_json
from data_pipeline.io.objects.places import public
from data_pipeline.io.progress import say


@dataclasses.dataclass(frozen=True)
class Request:
    """What to draw: `num` pictures per prompt, with seeds that count up from `seed`.

    `base` and `relay`: steps and guidance that replace the checkpoint's. `size`: of the final
    pictures; None is one relay pass. `images`: pictures to enlarge, one per prompt or one for all.
    `noise`: a file of noise that replaces the seeds' noise. `expanding`: how prompts are expanded.
    `expansions`: those that are known, by the number of their prompt. `metadata`: whether each PNG
    says what it was drawn from. `loras`: the adapters.
    """

    prompts: list[str]
    num: int
    seed: int
    base: SamplerSettings
    relay: SamplerSettings
    size: Size | None = None
    images: list[Path] | None = None
    noise: Path | None = None
    expanding: Expanding | None = None
    expansions: Mapping[int, Expansion] = dataclasses.field(default_factory=dict)
    metadata: bool = True
    loras: Sequence[LoraFile] = ()


def read_files(
    cascade: Cascade, source: Path, request: Request
) -> tuple[np.ndarray | None, dict[str, np.ndarray] | None]:
    """Return the pictures to enlarge, uint8 [prompts, H, W, 3], and the noise of a request.

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
        multiple = max(multiple_of(cascade.description, "relay") // 2, 1)
        images = read_images(request.images * (prompts // given), multiple)
    sizes = cascade.sizes(size, None if images is None else Size(*images.shape[1:3]))
    passes = len(sizes) - 1
    if request.noise is None:
        return images, None
    if passes > 1:
        raise InputError(
            f"--noise {request.noise}: its arrays are for one relay pass, but --size {size} takes"
            f" {passes}; leave --noise out, or give a smaller --size"
        )
    count = request.num * prompts
    shapes = {} if request.images else {"base": (count, *cascade.latent(sizes[0]))}
    if passes:
        shapes |= dict.fromkeys(("low", "relay"), (count, *cascade.latent(sizes[1])))
    return images, read_noise(request.noise, shapes)


def sample_few(
    source: Path, request: Request, out: Path, *, batch: int, mesh: str | None, attention: str
) -> dict[str, Any]:
    """Draw the pictures of a request into `out`. Returns the figures.

    contact_sheet.png shows the pictures of earlier calls too.

    Raises:
        InputError: the request does not fit the checkpoint `source`.
    """
    num, expanding = request.num, request.expanding
    prompts = [Prompt(text) for text in request.prompts]
    if expanding is not None:
        prompts = expanding.marked(prompts, num, None)
    count = num * len(prompts)
    # one picture in tiles occupies all devices
    devices = choose_mesh(mesh, sys.maxsize if count == 1 and request.relay.tile else count)
    width = batch_width(batch, devices, count)
    directory, description = cascades.read_cascade(source)
    # `read_files` says so where it is needed and missing
    if "base" in description.stages and not request.images:
        check_trained(description, {"base": request.base})
    if request.images or (
        "base" in description.stages and len(drawn_sizes(description, request.size)) > 1
    ):
        check_trained(description, {"relay": request.relay})
    loras = applied_to(request.loras, description, source)
    plan = planned(description, (), devices, attention)
    images, noise = read_files(plan, source, request)
    given = None if images is None else Size(*images.shape[1:3])
    drawn = Pictures(width, plan.sizes(request.size, given), images is not None)
    with waiting("checking that the pictures fit into memory"):
        settings = settings_that_fit(plan, drawn, request.base, request.relay)
    base, relay = (dataclasses.replace(one, copies=count == 1) for one in settings)
    request = dataclasses.replace(request, base=base, relay=relay)
    record = _record(source, loras, request, drawn.sizes)
    drawn_as = Jobs(prompts, num, request.seed, request.expansions)
    if expanding is not None:
        texts = Texts(expanding, read_tokenizer(directory, description), None)
        drawn_as = texts.expand(drawn_as, range(count))
    with waiting(f"loading {source}"):
        cascade = loras.change(load(source, mesh=devices, attention=attention))
    names = [f"{number:02d}_{one.name or slug(one.text)}" for number, one in enumerate(prompts)]
    # seeds and names of files are of each prompt anew
    jobs = [
        drawn_as[n * num + i]._replace(
            seed=request.seed + i, file=f"{names[n]}_{request.seed + i}.png"
        )
        for n in range(len(names))
        for i in range(num)
    ]
    texts_drawn = (job.text for job in jobs[::num])
    say_unknown(cascade.tokenize, texts_drawn, adapted=bool(loras.applied))
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
                texts = record.of(jobs[i]) if request.metadata else {}
                save_png(out / jobs[i].file, image, texts=texts)
            bar.update(len(rows))
    labels = [one.text + " (expanded)" * one.expand for one in prompts]
    sheet = overview(out, dict(zip(names, labels, strict=True)), [job.file for job in jobs])
    save_png(out / "contact_sheet.png", sheet)
    made = counted(count, "picture")
    say(f"{made} and contact_sheet.png in {public(out)}")
    tell_json([job.file for job in jobs])
    figures = {
        "images": [job.to_json() for job in jobs],
        "sheet": public(out / "contact_sheet.png"),
    }
    if expanding is not None and expanding.ablation:
        figures["ablation"] = public(save_ablation(out, jobs, num))
    return figures


def _record(source: Path, loras: Loras, request: Request, sizes: tuple[Size, ...]) -> Record:
    """Return what the pictures of a request are drawn from.

    Raises InputError on an adapter of a stage that does not draw them.
    """
    stages = {} if request.images else {"base": request.base}
    stages |= {"relay": request.relay} if len(sizes) > 1 else {}
    found = parts_fingerprint(source, ("vae", "t5", *stages))
    checkpoint = Checkpoint(source.name, found, loras=loras.records(tuple(stages)))
    given = [name for name in ("images", "noise") if getattr(request, name)]
    fields, tile = stage_fields(loras.description, stages), request.relay.tile
    return Record(sizes[-1], fields, checkpoint, tile, tuple(given))
