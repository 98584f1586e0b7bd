"""`cv3jax sample --prompts`: draw the pictures of a whole file of prompts.

The work is spread over devices and processes, and resumes after interruptions.
"""

import dataclasses
import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cv3jax.adapters.applied import applied_to
from cv3jax.adapters.given import LoraFile
from cv3jax.cascade import memory
from cv3jax.cascade.automatic_tiles import settings_that_fit
from cv3jax.cascade.limits import check_trained
from cv3jax.cascade.parts import read_tokenizer
from cv3jax.cascade.pipeline import load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size, drawn_sizes
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.distributed import preemption
from cv3jax.distributed.backend import waiting
from cv3jax.distributed.independent import holding
from cv3jax.distributed.mesh import choose_mesh
from cv3jax.sampling.ablation import save_ablation
from cv3jax.sampling.batches import batch_width, draw_batch, steps_on
from cv3jax.sampling.expanding import Expanding
from cv3jax.sampling.inputs import LAST_SEED, read_prompts
from cv3jax.sampling.jobs import (
    FORMAT,
    INDEX,
    PLAN,
    Jobs,
    Target,
    check_plan,
    index,
    make,
    missing,
    planned_tile,
    write,
)
from cv3jax.sampling.metadata import Record
from cv3jax.sampling.png_record import STRENGTH, Checkpoint, stage_fields
from cv3jax.sampling.texts import Texts
from cv3jax.sampling.vocabulary import say_unknown
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, StoppedError, counted
from data_pipeline.io.objects.places import public
from data_pipeline.io.progress import say
from data_pipeline.io.shares import Share

ENDS = "the command ends after this batch; run it again to resume"


class Pictures(NamedTuple):
    """The pictures of a file of prompts: `num` of each, with seeds counting up through the file."""

    prompts: Path
    num: int
    seed: int
    size: Size | None  # of the final pictures
    base: SamplerSettings
    relay: SamplerSettings
    expanding: Expanding | None = None
    metadata: bool = True  # whether each PNG says what it was drawn from
    loras: Sequence[LoraFile] = ()  # adapters


class Devices(NamedTuple):
    """Images per device at once, the mesh's axes, and the attention's name."""

    batch: int
    mesh: str | None
    attention: str


def sample_many(
    source: Path, pictures: Pictures, out: Path, devices: Devices, share: Share
) -> dict:
    """Make this share of the pictures in `out` with the checkpoint `source`. Returns the figures.

    Pictures that exist are kept. SIGTERM ends it after a batch, without an error.

    Raises:
        InputError: the file, the checkpoint or the mesh does not fit, or `out` holds what another
            plan made.
        StoppedError: Ctrl-C or SIGHUP came; the batch that was being made is saved.
        OSError: something could not be written; the same command continues.
    """
    num, seed, base, relay = pictures.num, pictures.seed, pictures.base, pictures.relay
    begun = (out / PLAN).exists()
    # the plan has a tile where the whole did not fit when its pictures were begun
    if not (relay.tile or relay.whole):
        tile = planned_tile(out)
        base, relay = (dataclasses.replace(one, tile=tile) for one in (base, relay))
    prompts, found = read_prompts(pictures.prompts, num)
    lines, expanding = len(prompts), pictures.expanding
    if expanding is not None:
        prompts = expanding.marked(prompts, num, seed)
    jobs = Jobs(prompts, num, seed)
    if seed + len(jobs) - 1 > LAST_SEED:
        raise InputError(
            f"--seed {seed}: the last of {counted(len(jobs), 'picture')} would have a seed above"
            f" {LAST_SEED}; give a smaller one"
        )
    directory, description = cascades.read_cascade(source)
    require(source, description, "base")
    sizes = drawn_sizes(description, pictures.size)
    stages = {"base": base, "relay": relay} if len(sizes) > 1 else {"base": base}
    check_trained(description, stages)
    size = sizes[-1]
    parts = ("vae", "t5", *stages)
    plan = {
        "format": FORMAT,
        "prompts": {"lines": lines, "sha256": found},
        "num": num,
        "seed": seed,
        "size": size.height if size.height == size.width else list(size),
        "checkpoint": parts_fingerprint(source, parts),
    }
    for name, settings in stages.items():
        chosen = settings.of(description.stages[name])
        plan[name] = {"steps": chosen.steps, "guidance": chosen.guidance}
        plan[name] |= settings.unusual(description.stages[name])
    if relay.tile:  # plans of pictures that are drawn as a whole have none
        plan["tile"] = relay.tile
    if not pictures.metadata:
        plan["metadata"] = False
    loras = applied_to(pictures.loras, description, source)
    if records := loras.records(tuple(stages)):
        plan["loras"] = records
    texts = None
    if expanding is not None:
        texts = Texts(expanding, read_tokenizer(directory, description), out)
        plan["expand"] = texts.plan()
    check_plan(out, plan, jobs, pictures.prompts)
    most = -(-len(jobs) // share.count)
    mesh = choose_mesh(devices.mesh, most)
    width = batch_width(devices.batch, mesh, most)
    with holding(out, share) as place:
        # again, because another process may have begun meanwhile
        if check_plan(out, plan, jobs, pictures.prompts):
            (out / INDEX).unlink(missing_ok=True)  # it lists only the earlier pictures
        todo = missing(
            jobs,
            [i for i in range(len(jobs)) if i // width % share.count == share.index],
            out,
            size,
        )
        made = 0
        if todo:
            drawn = memory.Pictures(width, sizes)
            planned = memory.planned(description, parts, mesh, devices.attention)
            with waiting("checking that the pictures fit into memory"):
                if begun:
                    memory.check_fits(planned, drawn, base, relay)
                else:
                    base, relay = settings_that_fit(planned, drawn, base, relay)
            if relay.tile and "tile" not in plan:
                plan["tile"] = relay.tile
                check_plan(out, plan, jobs, pictures.prompts)
            if texts is not None:  # a batch is drawn as a whole
                batches = {i // width for i in todo}
                jobs = texts.expand(jobs, [i for i in range(len(jobs)) if i // width in batches])
            with waiting(f"loading {source}"):
                cascade = loras.change(load(source, parts, mesh, devices.attention))
            if share.index == 0:
                first = (jobs[i].text for i in range(0, len(jobs), num))
                say_unknown(cascade.tokenize, first, adapted=bool(loras.applied))
            target = Target(out, place)
            if pictures.metadata:
                fields = stage_fields(description, stages)
                if relay.strength != 1.0 and "relay" in stages:
                    fields["relay"][STRENGTH] = relay.strength
                made_by = Checkpoint(source.name, plan["checkpoint"], loras=records)
                record = Record(size, fields, made_by, base.tile)
                target = target._replace(texts=record.of)
            write(place, out / PLAN, iter([json.dumps(plan, indent=2, sort_keys=True) + "\n"]))
            with (
                preemption.noticing(ends=ENDS) as noticed,
                progress.bar(len(todo), "sample", "picture") as bar,
            ):
                cascade = cascade.with_progress(steps_on(bar))
                made = make(
                    jobs,
                    todo,
                    width,
                    lambda some: draw_batch(
                        cascade, some, width, size=size, base=base, relay=relay
                    ),
                    target,
                    noticed,
                    bar,
                )
                stop = noticed()
        figures = {
            "pictures": len(jobs),
            "part": list(share),
            "made": made,
            "left": len(todo) - made,
            "index": None,
        }
        if figures["left"]:
            said = (
                f"pictures left: {figures['left']} of {len(jobs)}; run the same command to resume"
            )
            if stop != signal.SIGTERM:
                raise StoppedError(stop, said)
        elif lacking := index(texts.kept(jobs) if texts else jobs, out, place, size):
            said = (
                f"share {share.index} of {share.count} is done; pictures left to the other"
                f" processes: {lacking} of {len(jobs)}"
            )
        else:
            figures["index"] = public(out / INDEX)
            if texts is not None and expanding.ablation:
                figures["sheet"] = public(save_ablation(out, list(jobs), num))
            said = (
                f"{public(out)} has all {counted(len(jobs), 'picture')}, and {INDEX} has their"
                " prompts and seeds"
            )
    say(f"{counted(made, 'picture')} made; {said}")
    return figures


def require(source: Path, description: CascadeDescription, first: str) -> None:
    """Raise InputError unless the checkpoint has the parts for sampling from stage `first`."""
    has = description.parts
    if needed := [
        name
        for name, there in (
            (f"{first} stage", first in has),
            *((n, n in has) for n in ("t5", "vae")),
        )
        if not there
    ]:
        raise InputError(
            f"--checkpoint {source} has no {needed[0]}, only {', '.join(has)}; give a checkpoint"
            " that has all parts"
        )
