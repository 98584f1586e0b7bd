"""The autoencoder stage: reconstruction + KL (+ learned perceptual distance) on images alone."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from cv3jax.cascade.parts import model_of, part_loader, vae_init
from cv3jax.checkpoints import cascades
from cv3jax.diffusion.conditioning import normals
from cv3jax.diffusion.losses import autoencoder_loss
from cv3jax.diffusion.pixels import to_pixels, to_uint8
from cv3jax.distributed import processes
from cv3jax.distributed.batches import placement, placer
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import replicated
from cv3jax.distributed.partitioning import abstract, tree_specs
from cv3jax.models.vae import Autoencoder, posterior_sample
from cv3jax.recipes import to_json
from cv3jax.reports.pictures import contact_sheet, save_png
from cv3jax.training.data import batch_like, bucket_sizes, by_size, loader, of_size, open_data
from cv3jax.training.memory_plan import compiled_and_announced, held
from cv3jax.training.previews import first_images
from cv3jax.training.stage import Deal, Stage, plan
from cv3jax.training.state import make_tx, state_creator, state_shapes
from cv3jax.training.train_step import make_train_step
from data_pipeline.io.errors import InputError

SCALE_IMAGES = 256  # how many images the latent scale is measured on


def build_vae(config: ConfigDict) -> Stage:
    """The pieces of an autoencoder run."""
    deal, records = plan(config), open_data(config)
    model = model_of(Autoencoder, config.model, "config.model")
    side = config.data.image_size
    if side % model.factor:
        raise InputError(
            f"config.data.image_size = {side} is not a multiple of the autoencoder's factor"
            f" {model.factor}"
        )
    if odd := [
        size for size in bucket_sizes(config) if size[0] % model.factor or size[1] % model.factor
    ]:
        raise InputError(
            f"config.data.buckets: {odd[0][0]}x{odd[0][1]} is not of multiples of the autoencoder's"
            f" factor {model.factor}"
        )

    perceptual, frozen = None, {}
    if config.objective.perceptual:
        from cv3jax.weights.lpips import load_lpips

        perceptual, frozen = load_lpips(config.objective.perceptual)
        frozen = jax.device_put(frozen, replicated(deal.mesh))
    like, init, tx, train = vae_step(config, deal, model, perceptual)
    load = part_loader(config.init_from, "vae") if config.init_from else None
    create = state_creator(init, tx, config.seed, like, load)

    @functools.cache
    def compiled():
        kept = abstract(frozen, replicated(deal.mesh))
        batches = [of_size(batch_like(config, deal.mesh), size) for size in data.sizes]
        programs = [(train, (like, kept, batch)) for batch in batches]
        return dict(
            zip(
                data.sizes,
                compiled_and_announced(programs, like, kept, max(batches, key=held)),
                strict=True,
            )
        )

    def step(state, batch):
        return by_size(compiled(), batch)(state, frozen, batch)

    whole = replicated(deal.mesh)  # so that every process has what it looks at
    decode = jax.jit(
        lambda params, images: to_uint8(model.apply({"params": params}, to_pixels(images))[0]),
        out_shardings=whole,
    )

    def preview(directory: Path):
        images = first_images(records, side, 8)

        def show(ema, step):
            sheet = contact_sheet(
                [images, np.asarray(decode(ema, images))], rows=("image", "round trip")
            )
            return (
                save_png(directory / f"step_{step:07d}.png", sheet) if processes.main() else sheet
            )

        return show

    def export(ema, directory: Path) -> dict:
        images = first_images(records, side, SCALE_IMAGES)
        encode = jax.jit(
            lambda params, x: model.apply({"params": params}, to_pixels(x), method="encode")[0],
            out_shardings=whole,
        )
        squares = [
            np.asarray(encode(ema, images[i : i + 16]), np.float64)
            for i in range(0, len(images), 16)
        ]
        scale = float(1 / np.sqrt(np.mean(np.concatenate(squares) ** 2)))
        directory.mkdir(parents=True, exist_ok=True)
        cascades.save_part(directory / "vae", ema)
        if processes.main():
            cascades.write_cascade(
                directory,
                {"vae": {"model": to_json(config)["model"], "scale": scale}, "stages": {}},
            )
        errors = [
            (np.asarray(decode(ema, images[i : i + 16]), np.float64) - images[i : i + 16])
            for i in range(0, len(images), 16)
        ]
        mse = np.mean(np.concatenate(errors) ** 2, axis=(1, 2, 3))
        return {
            "latent_scale": scale,
            "train_psnr": float(np.mean(10 * np.log10(255**2 / np.maximum(mse, 1e-3)))),
        }

    data, place = loader(config, records, None, deal.mesh), placer(deal.mesh, config.batch.size)
    return Stage(create, like, data, place, step, preview, export)


def vae_step(
    config: ConfigDict, deal: Deal, model: Autoencoder, perceptual: Callable | None
) -> tuple[Any, Callable, Any, Callable]:
    """(shapes of the state, init, optimizer, jitted (state, frozen, batch) → (state, metrics));
    needs neither data nor devices.
    """
    init, tx = vae_init(model), make_tx(config)
    like = state_shapes(init, tx, config.seed, deal.mesh)
    layout = Layout(deal.mesh, tree_specs(like.params, deal.mesh), config.model.dtype)

    def reconstruct(params, pixels, keys):
        params = layout.whole(params)
        mean, logvar = model.apply({"params": params}, pixels, method="encode")
        z = posterior_sample(mean, logvar, normals(keys, mean.shape[1:]))
        return model.apply({"params": params}, z, method="decode"), mean, logvar

    loss = autoencoder_loss(
        reconstruct,
        perceptual,
        kl_weight=config.objective.kl_weight,
        perceptual_weight=config.objective.perceptual_weight,
    )
    train_step = make_train_step(
        lambda params, frozen, batch, keys: loss(
            params, frozen, {"pixels": to_pixels(batch["image"])}, keys
        ),
        tx,
        decay=config.optim.ema,
        accumulate=deal.accumulate,
        spread=layout.spread_gradient,
    )
    return (
        like,
        init,
        tx,
        jax.jit(train_step, donate_argnums=0, out_shardings=(placement(like), None)),
    )
