"""The base and relay stages: frozen text encoder and autoencoder, and the UNet that trains on their
outputs.
"""

import functools
from pathlib import Path

from ml_collections import ConfigDict

from cv3jax.cascade.parts import part_loader
from cv3jax.cascade.pipeline import Cascade
from cv3jax.checkpoints import cascades
from cv3jax.distributed import processes
from cv3jax.distributed.batches import placer
from cv3jax.reports.pictures import save_png
from cv3jax.training.data import by_size, loader, of_size, open_data
from cv3jax.training.feature_cache import arrays, open_companion, prepare_of
from cv3jax.training.frozen import describe, frozen_description, frozen_parts, random_facts
from cv3jax.training.memory_plan import compiled_and_announced, held
from cv3jax.training.previews import base_preview, relay_preview
from cv3jax.training.programs import diffusion_steps, encode_args, train_args
from cv3jax.training.stage import Stage, plan
from cv3jax.training.state import state_creator


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
