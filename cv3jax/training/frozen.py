"""The frozen encoders of a stage in training, and the stage's entry in the cascade."""

import dataclasses
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cv3jax.cascade.parts import build_model, load_params, t5_init
from cv3jax.checkpoints import cascades, manifest
from cv3jax.checkpoints.description import CascadeDescription, StageDescription, VaeDescription
from cv3jax.distributed import hosts, processes
from cv3jax.distributed.backend import jit_once, waiting
from cv3jax.distributed.partitioning import tree_sharding
from cv3jax.models.precision import as_computed
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError
from data_pipeline.loading.damaged import readable
from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.tokenizer import load_tokenizer, train_tokenizer
from data_pipeline.records.records import RecordSource, captions

TOKENIZER_CAPTIONS = 50_000  # enough for a vocabulary of a few thousand pieces
TEXT, TOKENIZER = "text", "tokenizer"  # of a random text encoder, under the workdir


class Frozen(NamedTuple):
    """The frozen encoders of a stage, and where the cascade's other parts are."""

    description: CascadeDescription  # of the cascade so far
    params: dict  # vae and t5, where they are needed
    tokenize: Callable | None  # where t5 is loaded
    directories: dict[str, Path]  # part → its directory


def check_sides(settings: StageSettings, vae: VaeDescription) -> None:
    """Raise InputError unless crops and whole images fit the UNet.

    Their latents must be divisible by 2 at every stage.
    """
    halvings = len(settings.model["channel_mult"]) - 1
    factor = build_model(Autoencoder, vae.model).factor * 2**halvings
    for size in settings.data.sizes:
        if any(side % factor for side in size):
            what = f"config.data.buckets = {size[0]}x{size[1]}"
            raise InputError(
                f"{what}: both sides must be multiples of {factor}, the autoencoder's factor times"
                " the UNet's"
            )
    for what, side in (
        ("", settings.data.image_size),
        (" × the smallest zoom", settings.data.whole_side),
    ):
        if side % factor:
            raise InputError(
                f"config.data.image_size{what} = {side} is not a multiple of {factor}, the"
                " autoencoder's factor times the UNet's"
            )


def frozen_description(settings: StageSettings) -> tuple[Path, CascadeDescription]:
    """Return (directory, description) of config.cascade.

    Raises:
        InputError: config.cascade is unset or lacks a part that the stage needs, or the image size
            does not fit.
    """
    if not settings.cascade:
        raise InputError(
            "config.cascade is not set; give a checkpoint with a vae (and t5), e.g."
            " --config.cascade=runs/vae"
        )
    directory, description = cascades.read_cascade(settings.cascade)
    if not (directory / cascades.CASCADE).is_file():
        raise InputError(
            f"config.cascade = {settings.cascade} is a run that has not finished, and it will"
            f" delete its checkpoint {directory}; let it finish, or resume it with"
            " --config.train.export_every=N to export a cascade on the way"
        )
    if description.vae is None:
        raise InputError(
            f"config.cascade = {settings.cascade} has no vae; give a cascade with a vae"
        )
    if description.t5 is None and not settings.text.random:
        raise InputError(
            f"config.cascade = {settings.cascade} has no t5; give a cascade with a t5, or"
            " --config.text.random=True"
        )
    check_sides(settings, description.vae)
    return directory, description


def frozen_parts(
    settings: StageSettings,
    directory: Path,
    description: CascadeDescription,
    records: RecordSource,
    mesh: Any,
    workdir: Path,
    needed: tuple[str, ...],
) -> Frozen:
    """Return the parts `needed` of vae and t5 of config.cascade, sharded over the mesh.

    Where the cascade has no text encoder, it is a random one.
    """
    loaded = tuple(part for part in ("vae", "t5") if part in description.parts and part in needed)
    params, tokenize = {}, None
    if loaded:
        with waiting(f"loading {' and '.join(loaded)} of {directory}"):
            params, tokenize = load_params(
                directory, description, loaded, lambda tree: tree_sharding(tree, mesh)
            )
    if "t5" in params:
        params["t5"] = as_computed(params["t5"], settings.text.dtype)
    directories = {part: directory / part for part in description.parts if part != settings.stage}
    if description.t5 is None:
        params["t5"], tokenize = random_text(settings, records, mesh, workdir)
        directories |= {"t5": workdir / TEXT, "t5/tokenizer": workdir / TOKENIZER}
        description = dataclasses.replace(description, t5=settings.text.description)
    return Frozen(description, params, tokenize, directories)


def random_text(
    settings: StageSettings, records: RecordSource, mesh: Any, workdir: Path
) -> tuple[Any, Callable]:
    """Return (parameters, tokenizer) of a frozen random T5, with the data's own vocabulary.

    The vocabulary is that of the captions. Both are kept under the workdir, so that a resumed run
    reads the same tokenizer and its checkpoints can be sampled. Before the first checkpoint they
    are made again.
    """
    folder = workdir / TOKENIZER
    fresh = processes.first(
        "tokenizer",
        lambda: not (folder.is_dir() and any((workdir / "checkpoints").glob("[0-9]*"))),
    )
    if fresh and processes.main():
        parts = records.parts if isinstance(records, Mixture) else (records,)
        some = itertools.chain.from_iterable(
            itertools.islice(readable(part), TOKENIZER_CAPTIONS // len(parts)) for part in parts
        )
        shutil.rmtree(folder, ignore_errors=True)
        with waiting("training a tokenizer on the captions"):
            train_tokenizer(
                itertools.chain.from_iterable(map(captions, some)),
                folder,
                settings.text.vocab,
                settings.text.length,
            )
        manifest.write(folder)
    processes.barrier("tokenizer")
    hosts.bring(folder)
    init = t5_init(build_model(T5Encoder, settings.text.description.model))
    shardings = tree_sharding(jax.eval_shape(init, jax.random.key(0)), mesh)
    with waiting("making the random text encoder"):
        params = jit_once(init, shardings)(jax.random.key(settings.seed))
    if fresh or not processes.first("text", lambda: (workdir / TEXT).is_dir()):
        cascades.save_part(workdir / TEXT, params)
    return params, load_tokenizer(folder, settings.text.length)


def describe(settings: StageSettings, description: CascadeDescription) -> StageDescription:
    """Return the stage's entry in cascade.json, beside the parts that are there already."""
    vae = build_model(Autoencoder, description.vae.model)
    return StageDescription(
        kind="relay" if settings.relay else "base",
        model={**settings.json["model"], "out_channels": vae.z_channels},
        text_width=build_model(T5Encoder, description.t5.model).channels,
        prediction=settings.objective.prediction,
        factor=vae.factor,
        image_size=settings.data.whole_side,
        start=settings.schedule.start,
        blur=settings.schedule.blur,
        zero_snr=settings.schedule.zero_snr,
        steps=settings.sample.steps,
        guidance=settings.sample.guidance,
        eta=settings.sample.eta,
        form=settings.sample.form,
        guidance_rescale=settings.sample.guidance_rescale,
    )
