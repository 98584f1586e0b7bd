"""The base and relay stages: frozen text encoder and autoencoder, and the UNet that trains on their
outputs.
"""

import functools
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from cv3jax.build import (
    Stage,
    bucket_sizes,
    by_size,
    loader,
    of_size,
    open_data,
    plan,
    state_creator,
)
from cv3jax.build_vae import first_images
from cv3jax.cached import arrays, open_companion, prepare_of
from cv3jax.cascade.parts import build_model, load_params, part_loader, t5_init
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.stage_sampler import fold
from cv3jax.checkpoints import cascades
from cv3jax.diffusion.pixels import down2, to_pixels, to_uint8, up2
from cv3jax.diffusion_steps import diffusion_steps, encode_args, train_args
from cv3jax.distributed import processes
from cv3jax.distributed.backend import jit_once
from cv3jax.distributed.batches import placer
from cv3jax.distributed.partitioning import tree_sharding
from cv3jax.memory import compiled_and_announced, held
from cv3jax.models.precision import as_computed
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from cv3jax.pictures import contact_sheet, save_png
from cv3jax.recipe import to_json
from data_pipeline.damaged import readable
from data_pipeline.io.errors import InputError
from data_pipeline.mixture import Mixture
from data_pipeline.records import RecordSource
from data_pipeline.tokenizer import load_tokenizer, train_tokenizer

TOKENIZER_CAPTIONS = 50_000  # a vocabulary of a few thousand pieces needs no more


class Frozen(NamedTuple):
    """The encoders a stage trains behind, and where the cascade's other parts lie."""

    description: dict  # of the cascade so far
    params: dict  # vae and t5, as far as they are needed
    tokenize: Callable | None  # with t5
    directories: dict[str, Path]  # part → where it is on disk; parts made here have none yet


def build_diffusion(config: ConfigDict, workdir: Path) -> Stage:
    """The pieces of a base or relay run."""
    deal, records = plan(config), open_data(config)
    directory, description = frozen_description(config)
    text = description.get("t5", {"model": random_facts(config), "length": config.text.length})
    cache = open_companion(config, directory, description, records)
    steps = diffusion_steps(
        config, deal, description["vae"], text["model"], text["length"], arrays(config, cache)
    )
    load = part_loader(config.init_from, config.init_part) if config.init_from else None
    create = state_creator(steps.init, steps.tx, config.seed, steps.like, load)
    # what it refuses it should refuse before a tokenizer is written
    loader(config, records, None, deal.mesh)
    needed = ("vae", "t5") if config.train.preview_every else tuple(steps.frozen)
    frozen = frozen_parts(config, directory, description, records, deal.mesh, workdir, needed)
    parts = {name: frozen.params[name] for name in steps.frozen}

    @functools.cache
    def compiled():
        at = {size: steps._replace(batch=of_size(steps.batch, size)) for size in data.sizes}
        programs = [
            program
            for one in at.values()
            for program in ((one.encode, encode_args(one)), (one.train, train_args(one)))
        ]
        largest = max(at.values(), key=lambda one: held(one.batch))
        made = compiled_and_announced(
            programs, steps.like, frozen.params, (largest.batch, train_args(largest)[2])
        )
        return dict(zip(at, zip(made[::2], made[1::2], strict=True), strict=False))

    def step(state, batch):
        encode, train = by_size(compiled(), batch)
        return train(state, {}, encode(parts, batch, state.key, state.step))

    def preview(directory: Path):
        description = {
            **frozen.description,
            "stages": {config.stage: describe(config, frozen.description)},
        }
        cascade = Cascade(
            description,
            dict(frozen.params),
            frozen.tokenize,
            attention=config.attention,
            within=deal.mesh,
        )
        show = base_preview if config.schedule.blur == "none" else relay_preview

        def save(ema, step):
            cascade.params[config.stage] = ema
            picture = show(cascade, config, records)
            return (
                save_png(directory / f"step_{step:07d}.png", picture)
                if processes.main()
                else picture
            )

        return save

    def export(ema, directory: Path) -> dict:
        description = {
            **frozen.description,
            "stages": {
                **frozen.description["stages"],
                config.stage: describe(config, frozen.description),
            },
        }
        directory.mkdir(parents=True, exist_ok=True)
        parts = dict(frozen.directories)
        if "t5" not in parts:
            cascades.save_part(directory / "t5", frozen.params["t5"])
            parts["t5/tokenizer"] = workdir / "tokenizer"
        cascades.save_part(directory / config.stage, ema)
        if processes.main():
            for part, source in parts.items():
                cascades.carry_part(source, directory / part)
            cascades.write_cascade(directory, description)
        return {}

    tokenize, prepare = (
        frozen.tokenize if "tokens" in steps.batch else None,
        None if cache is None else prepare_of(config, cache),
    )
    data, place = (
        loader(config, records, tokenize, deal.mesh, prepare),
        placer(deal.mesh, config.batch.size),
    )
    return Stage(create, steps.like, data, place, step, preview, export)


def whole_side(config: ConfigDict) -> int:
    """The side in pixels of a whole picture, which is what the stage draws.

    It trains on crops of it where the least zoom is above 1.
    """
    return round(config.data.image_size * config.data.zoom[0])


def check_sides(config: ConfigDict, vae: dict) -> None:
    """Raise InputError unless crops and whole images become latents that the UNet can halve stage
    by stage.
    """
    factor = build_model(Autoencoder, vae).factor * 2 ** (len(config.model.channel_mult) - 1)
    for size in bucket_sizes(config):
        if any(side % factor for side in size):
            what = f"config.data.buckets: {size[0]}x{size[1]}"
            raise InputError(
                f"{what} is not of multiples of {factor}, the autoencoder's factor times the UNet's"
            )
    for what, side in (("", config.data.image_size), (" times the least zoom", whole_side(config))):
        if side % factor:
            raise InputError(
                f"config.data.image_size{what} = {side} is not a multiple of {factor}, the"
                " autoencoder's factor times the UNet's"
            )


def frozen_description(config: ConfigDict) -> tuple[Path, dict]:
    """(directory, description) of config.cascade.

    Raises:
        InputError: config.cascade unset or without the parts a stage needs, or an image size that
            does not suit them.
    """
    if not config.cascade:
        raise InputError(
            "config.cascade is not set; give a checkpoint with a vae (and t5), e.g."
            " --config.cascade=runs/vae"
        )
    directory, description = cascades.read_cascade(config.cascade)
    if "vae" not in description:
        raise InputError(f"config.cascade = {config.cascade} has no vae")
    if "t5" not in description and not config.text.random:
        raise InputError(
            f"config.cascade = {config.cascade} has no t5; give one that has, or set"
            " config.text.random=True"
        )
    check_sides(config, description["vae"]["model"])
    return directory, description


def frozen_parts(
    config: ConfigDict,
    directory: Path,
    description: dict,
    records: RecordSource,
    mesh: Any,
    workdir: Path,
    needed: tuple[str, ...],
) -> Frozen:
    """The parts `needed` of vae and t5 of config.cascade, placed on the mesh; a random text encoder
    where it brings none.
    """
    has = tuple(part for part in ("vae", "t5") if part in description)
    loaded = tuple(part for part in has if part in needed)
    params, tokenize = (
        load_params(directory, description, loaded, lambda tree: tree_sharding(tree, mesh))
        if loaded
        else ({}, None)
    )
    if "t5" in params:
        params["t5"] = as_computed(params["t5"], config.text.dtype)
    directories = {
        part: directory / part for part in (*has, *description["stages"]) if part != config.stage
    }
    if "t5" not in description:
        params["t5"], tokenize, description["t5"] = random_text(config, records, mesh, workdir)
    return Frozen(description, params, tokenize, directories)


def random_facts(config: ConfigDict) -> dict:
    """The sizes of the random text encoder of config.text."""
    return {
        key: value
        for key, value in to_json(config)["text"].items()
        if key not in ("random", "length")
    }


def random_text(
    config: ConfigDict, records: RecordSource, mesh: Any, workdir: Path
) -> tuple[Any, Callable, dict]:
    """(parameters, tokenizer, description) of a frozen random T5 over a vocabulary of the data's
    own captions.

    The tokenizer is kept under the workdir, so that a resumed run reads the same one; until a first
    checkpoint it is made anew.
    """
    folder = workdir / "tokenizer"
    if (
        processes.first(
            "tokenizer",
            lambda: not (folder.is_dir() and any((workdir / "checkpoints").glob("[0-9]*"))),
        )
        and processes.main()
    ):
        parts = records.parts if isinstance(records, Mixture) else (records,)
        some = itertools.chain.from_iterable(
            itertools.islice(readable(part), TOKENIZER_CAPTIONS // len(parts)) for part in parts
        )
        shutil.rmtree(folder, ignore_errors=True)
        train_tokenizer(
            (record["caption"] for record in some), folder, config.text.vocab, config.text.length
        )
    processes.barrier("tokenizer")
    facts = random_facts(config)
    init = t5_init(build_model(T5Encoder, facts))
    shardings = tree_sharding(jax.eval_shape(init, jax.random.key(0)), mesh)
    params = jit_once(init, shardings)(jax.random.key(config.seed))
    return (
        params,
        load_tokenizer(folder, config.text.length),
        {"model": facts, "length": config.text.length},
    )


def base_preview(cascade: Cascade, config: ConfigDict, records: RecordSource) -> np.ndarray:
    """The recipe's prompts, sampled."""
    prompts = list(config.sample.prompts)
    keys = jax.vmap(jax.random.key)(jnp.arange(len(prompts)))
    images = cascade.decode(
        cascade.stage(
            config.stage, cascade.text(prompts), keys, cascade.noise(keys, whole_side(config))
        )
    )
    return contact_sheet([images], columns=prompts)


def relay_preview(cascade: Cascade, config: ConfigDict, records: RecordSource) -> np.ndarray:
    """Real images shrunk to half and enlarged, the autoencoder's round trip of that, what the relay
    makes of it, and the originals.
    """
    some, side = list(itertools.islice(readable(records), 6)), whole_side(config)
    real, captions = first_images(some, side, len(some)), [record["caption"] for record in some]
    keys = jax.vmap(jax.random.key)(jnp.arange(len(some)))
    low_pixels = up2(down2(to_pixels(jnp.asarray(real))))
    low = cascade.encode(low_pixels, cascade.noise(keys, side))
    own = fold(keys, 1)
    images = cascade.decode(
        cascade.stage(config.stage, cascade.text(captions), own, cascade.noise(own, side), low)
    )
    rows = [np.asarray(to_uint8(low_pixels)), cascade.decode(low), images, real]
    return contact_sheet(
        rows, rows=("half size, enlarged", "round trip", "relay", "original"), columns=captions
    )


def describe(config: ConfigDict, description: dict) -> dict:
    """The stage's entry in cascade.json, beside the parts that stand there already."""
    vae = build_model(Autoencoder, description["vae"]["model"])
    return {
        "kind": "base" if config.schedule.blur == "none" else "relay",
        "model": {**to_json(config)["model"], "out_channels": vae.z_channels},
        "text_width": build_model(T5Encoder, description["t5"]["model"]).channels,
        "prediction": config.objective.prediction,
        "factor": vae.factor,
        "image_size": whole_side(config),
        "start": config.schedule.start,
        "blur": config.schedule.blur,
        "steps": config.sample.steps,
        "guidance": config.sample.guidance,
        "eta": config.sample.eta,
        "form": config.sample.form,
    }
