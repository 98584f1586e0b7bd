"""The autoencoder stage: reconstruction + KL (+ learned perceptual distance), on images only."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from cv3jax.cascade import preview
from cv3jax.cascade.parts import model_of, part_loader, vae_init
from cv3jax.checkpoints import cascades, newest
from cv3jax.checkpoints.description import CascadeDescription, VaeDescription
from cv3jax.diffusion.conditioning import normals
from cv3jax.diffusion.losses import autoencoder_loss
from cv3jax.diffusion.pixels import to_pixels, to_uint8
from cv3jax.distributed import processes
from cv3jax.distributed.batches import placement, placer
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import replicated
from cv3jax.distributed.partitioning import abstract, tree_specs
from cv3jax.evaluation.image_metrics import psnr
from cv3jax.models.vae import Autoencoder, posterior_sample
from cv3jax.reports.pictures import contact_sheet
from cv3jax.training.autoencoder_heldout import autoencoder_held_out
from cv3jax.training.data import batch_like, by_size, loader, of_size, open_data
from cv3jax.training.fixed_pictures import reference_of
from cv3jax.training.heldout import open_held_out
from cv3jax.training.measures import HeldOut, Pictures
from cv3jax.training.memory_plan import compiled_and_announced, held
from cv3jax.training.over_time import Preview, keep_preview
from cv3jax.training.previews import first_images
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import MeshPlan, mesh_plan
from cv3jax.training.state import make_tx, selected, state_creator, state_shapes
from cv3jax.training.throughput import flops_of
from cv3jax.training.train_step import LossFn, make_train_step
from data_pipeline.io.errors import InputError
from data_pipeline.loading.bucket_sizes import Size
from data_pipeline.loading.damaged import readable

SCALE_IMAGES = 256  # images on which the latent scale is measured


class AutoencoderStage:
    """An autoencoder run: its model, data, programs, previews and export.

    Raises InputError on sizes or a perceptual network that do not fit, before anything is written.
    """

    def __init__(self, settings: StageSettings):
        """Build the stage from its settings."""
        self._settings, self._mesh = settings, mesh_plan(settings)
        self._records, self._held_out = open_data(settings.data), open_held_out(settings)
        self._model = model_of(Autoencoder, settings.model, "config.model")
        check_sides(settings, self._model.factor)
        perceptual, self._frozen = None, {}
        mesh = self._mesh.mesh
        if settings.objective.perceptual:
            from cv3jax.weights.lpips import load_lpips

            perceptual, frozen = load_lpips(settings.objective.perceptual)
            self._frozen = jax.device_put(frozen, replicated(mesh))
        self._program = vae_program(settings, self._mesh, self._model, perceptual)
        self.like = self._program.like
        init_from, model = settings.init_from, settings.model
        load = part_loader(init_from, "vae", model) if init_from else None
        self.create = state_creator(
            self._program.init, self._program.tx, settings.seed, self.like, load
        )
        whole = replicated(mesh)  # replicated, so that every process has the images it shows
        self._decode = jax.jit(
            lambda params, images: to_uint8(
                self._model.apply({"params": params}, to_pixels(images))[0]
            ),
            out_shardings=whole,
        )
        self._encode = jax.jit(
            lambda params, x: self._model.apply({"params": params}, to_pixels(x), method="encode")[
                0
            ],
            out_shardings=whole,
        )
        self.data = loader(settings, self._records, None, mesh)
        self.place = placer(mesh, settings.batch.size)
        # the latent scale is measured on export
        vae = VaeDescription(settings.json["model"], None)
        self.cascade = newest.about("vae", CascadeDescription(vae), {})
        self._compiled: dict[Size, Callable] = {}
        self._flops: dict[Size, int | None] = {}

    def compile(self) -> None:
        """Compile the train step for every size of batch, and print the memory plan."""
        kept = abstract(self._frozen, replicated(self._mesh.mesh))
        like = batch_like(self._settings, self._mesh.mesh)
        batches = [of_size(like, size) for size in self.data.sizes]
        programs = [(self._program.train, (self.like, kept, batch)) for batch in batches]
        compiled = compiled_and_announced(
            programs, self.like, {"perceptual": kept}, max(batches, key=held)
        )
        self._compiled = dict(zip(self.data.sizes, compiled, strict=True))
        counted = (flops_of([program]) for program in programs)
        self._flops = dict(zip(self.data.sizes, counted, strict=True))

    def step(self, state: Any, batch: dict) -> tuple[Any, dict]:
        """Run the train step: (state, placed batch) → (state, metrics); the state is donated."""
        return by_size(self._compiled, batch)(state, self._frozen, batch)

    def flops(self, batch: dict) -> int | None:
        """Return the FLOPs of the update of a placed batch, or None."""
        return by_size(self._flops, batch)

    def preview(self, directory: Path) -> Callable[[Any, int], np.ndarray]:
        """Return a function (ema, step) that writes a sheet of images and their round trips."""
        some = list(itertools.islice(readable(self._records), 8))
        images = first_images(some, self._settings.data.image_size, 8)
        captions = [record["caption"] for record in some]

        def show(ema, step):
            again = np.asarray(self._decode(ema, images))
            sheet = contact_sheet([images, again], rows=("image", "round trip"))
            preview = Preview(sheet, again, captions, images)
            return keep_preview(directory, step, preview) if processes.main() else sheet

        return show

    def held_out(self) -> HeldOut | None:
        """Return the held-out figures, or None without train.eval_data."""
        if self._held_out is None:
            return None
        loss, layout = self._program.loss, self._program.layout
        return autoencoder_held_out(self._settings, loss, layout, self._frozen, self._held_out)

    def pictures(self) -> Pictures:
        """Return the fixed pictures of evaluations: round trips of pictures, with their captions.

        They are held-out ones where there are some.
        """
        train, side = self._settings.train, self._settings.data.image_size
        source = self._records if self._held_out is None else self._held_out
        some = list(itertools.islice(readable(source), train.eval_pictures))
        images = first_images(some, side, len(some))

        def draw(ema):
            parts = [images[i : i + 16] for i in range(0, len(images), 16)]
            return np.concatenate([np.asarray(self._decode(ema, part)) for part in parts])

        captions = [record["caption"] for record in some]
        return Pictures(captions, side, draw, reference_of(self._settings, self._held_out, side))

    def export(self, ema: Any, directory: Path) -> dict:
        """Write the cascade: the autoencoder, and the scale that gives its latents an RMS of 1.

        The linear preview of latents is fitted to some of the same images. Returns the scale, and
        the PSNR of the images on which it was measured.
        """
        images = first_images(self._records, self._settings.data.image_size, SCALE_IMAGES)
        latents = np.concatenate(
            [
                np.asarray(self._encode(ema, images[i : i + 16]), np.float64)
                for i in range(0, len(images), 16)
            ]
        )
        scale = float(1 / np.sqrt(np.mean(latents**2)))
        directory.mkdir(parents=True, exist_ok=True)
        cascades.save_part(directory / "vae", ema)
        if processes.main():
            # few are enough for a linear fit, and all of them as floats would take much memory
            matrix = preview.described(to_pixels(images[:32]), scale * latents[:32])
            vae = VaeDescription(self._settings.json["model"], scale, matrix)
            cascades.write_cascade(directory, CascadeDescription(vae))
        backs = [
            np.asarray(self._decode(ema, images[i : i + 16])) for i in range(0, len(images), 16)
        ]
        return {"latent_scale": scale, "train_psnr": psnr(images, np.concatenate(backs))}


def check_sides(settings: StageSettings, factor: int) -> None:
    """Raise InputError unless the sides of images are multiples of the autoencoder's factor."""
    side = settings.data.image_size
    if side % factor:
        raise InputError(
            f"config.data.image_size = {side} is not a multiple of the autoencoder's factor"
            f" {factor}"
        )
    if odd := [size for size in settings.data.sizes if size[0] % factor or size[1] % factor]:
        raise InputError(
            f"config.data.buckets: both sides of {odd[0][0]}x{odd[0][1]} must be multiples of the"
            f" autoencoder's factor {factor}"
        )


class VaeProgram(NamedTuple):
    """The train step of an autoencoder; it needs neither data nor devices."""

    like: Any  # the train state's shapes and shardings
    init: Callable[[jax.Array], Any]  # key → parameters
    tx: Any
    train: Callable  # jitted (state, frozen, batch) → (state, metrics)
    loss: LossFn  # (params, frozen, batch, keys [B]) → (loss, metrics)
    layout: Layout  # of the parameters


def vae_program(
    settings: StageSettings, plan: MeshPlan, model: Autoencoder, perceptual: Callable | None
) -> VaeProgram:
    """Return the program of an autoencoder's recipe. perceptual: the learned distance, or None."""
    init, tx = vae_init(model), make_tx(settings.optim, settings.train.steps)
    skip = settings.train.skip
    like = state_shapes(init, tx, settings, plan.mesh)
    layout = Layout(plan.mesh, tree_specs(like.params, plan.mesh), settings.model["dtype"])

    def reconstruct(params, pixels, keys):
        params = layout.whole(params)
        mean, logvar = model.apply({"params": params}, pixels, method="encode")
        z = posterior_sample(mean, logvar, normals(keys, mean.shape[1:]))
        return model.apply({"params": params}, z, method="decode"), mean, logvar

    loss = autoencoder_loss(
        reconstruct,
        perceptual,
        kl_weight=settings.objective.kl_weight,
        perceptual_weight=settings.objective.perceptual_weight,
    )

    def of_batch(params, frozen, batch, keys):
        return loss(params, frozen, {"pixels": to_pixels(batch["image"])}, keys)

    train_step = make_train_step(
        of_batch,
        tx,
        decay=settings.optim.ema,
        accumulate=plan.accumulate,
        spread=layout.spread_gradient,
        skip=skip,
        select=selected(settings),
    )
    jitted = jax.jit(train_step, donate_argnums=0, out_shardings=(placement(like), None))
    return VaeProgram(like, init, tx, jitted, of_batch, layout)
