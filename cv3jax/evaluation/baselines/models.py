"""The models that others publish: where their folders lie, and the settings of the comparison.

Steps are those of CogView3's tables (arXiv 2403.05121): SDXL 50, Stable Cascade 20 + 10, LCM-SDXL
4. Its guidance weights are not published. They are the defaults of diffusers' pipelines here, and
for LCM-SDXL that of its model card.
"""

import dataclasses
from pathlib import Path
from typing import NamedTuple

from cv3jax.cascade.sizes import Size
from cv3jax.evaluation.baselines.folders import (
    Folder,
    open_network,
    open_pipeline,
    settings_of,
)
from data_pipeline.io.errors import InputError

SDXL, CASCADE, LCM = "sdxl", "stable-cascade", "lcm-sdxl"
NAMES = (SDXL, CASCADE, LCM)
SIDE = 1024
# where the folders come from
HUB = {
    SDXL: "stabilityai/stable-diffusion-xl-base-1.0",
    f"{CASCADE}/prior": "stabilityai/stable-cascade-prior",
    f"{CASCADE}/decoder": "stabilityai/stable-cascade",
    LCM: "latent-consistency/lcm-sdxl",
}
UNET = "UNet2DConditionModel"
_CLASSES = {
    SDXL: ("StableDiffusionXLPipeline",),
    CASCADE: ("StableCascadePriorPipeline", "StableCascadeDecoderPipeline"),
    LCM: ("StableDiffusionXLPipeline", UNET),
}


class Stages(NamedTuple):
    """Steps and guidance weight of each stage; None: the pipeline's default."""

    steps: tuple[int | None, ...]
    guidance: tuple[float | None, ...]


SETTINGS = {
    SDXL: Stages((50,), (5.0,)),
    CASCADE: Stages((20, 10), (4.0, 0.0)),
    LCM: Stages((4,), (8.0,)),
}


@dataclasses.dataclass(frozen=True)
class Model:
    """A model that diffusers draws with.

    Attributes:
        name: one of NAMES, or the folder's.
        kind: one of NAMES, or "folder".
        folders: what is loaded: the pipeline; prior and decoder; or SDXL's pipeline and the UNet.
        stages: steps and guidance weights.
        size: of the pictures.
    """

    name: str
    kind: str
    folders: tuple[Folder, ...]
    stages: Stages
    size: Size


def open_model(
    name: str,
    models: Path | None,
    size: Size | None = None,
    steps: tuple[int, ...] = (),
    guidance: tuple[float, ...] = (),
) -> Model:
    """Return a model by its name, whose folders are below `models`, or by its own folder.

    size, steps, guidance: in place of the model's. Nothing is loaded yet.

    Raises:
        InputError: a folder is missing, is of another class, holds code or pickles alone, or there
            are more steps or weights than stages.
    """
    if name in NAMES:
        if models is None:
            raise InputError(f"--model {name}: give --models with a directory that has {name}/")
        kind, folders, stages = name, _named(name, models), SETTINGS[name]
    else:
        path = Path(name)
        if not path.is_dir():
            raise InputError(
                f"--model {name}: give {', '.join(NAMES)}, or the folder of a diffusers pipeline"
            )
        kind, folders = "folder", (open_pipeline(path, "the pipeline"),)
        name, stages = path.resolve().name, Stages((None,), (None,))
    count = len(stages.steps)
    for flag, values in (("steps", steps), ("guidance", guidance)):
        if values and len(values) != count:
            given = ",".join(f"{value:g}" for value in values)
            raise InputError(
                f"--{flag} {given}: {name} has {count} stages; give one value for each"
            )
    stages = Stages(steps or stages.steps, guidance or stages.guidance)
    return Model(name, kind, folders, stages, size or _size(kind, folders[0]))


def _named(name: str, models: Path) -> tuple[Folder, ...]:
    if name == SDXL:
        folders = (open_pipeline(models / SDXL, HUB[SDXL]),)
    elif name == CASCADE:
        places = [f"{CASCADE}/{part}" for part in ("prior", "decoder")]
        folders = tuple(open_pipeline(models / place, HUB[place]) for place in places)
    else:
        folders = (
            open_pipeline(models / SDXL, HUB[SDXL], without=("unet",)),
            open_network(models / LCM, UNET, HUB[LCM]),
        )
    for folder, wanted in zip(folders, _CLASSES[name], strict=True):
        if folder.name != wanted:
            raise InputError(f"--model {name}: {folder.path} is a {folder.name}; give a {wanted}")
    return folders


def _size(kind: str, folder: Folder) -> Size:
    """Return the size that a model draws: 1024², or what the networks of a folder were made for."""
    if kind != "folder":
        return Size(SIDE, SIDE)
    for part in ("unet", "transformer"):
        side = settings_of(folder, part).get("sample_size")
        widths = settings_of(folder, "vae").get("block_out_channels")
        if type(side) is int and isinstance(widths, list) and 1 <= len(widths) <= 8:
            pixels = side * 2 ** (len(widths) - 1)
            if 8 <= pixels <= 8192:
                return Size(pixels, pixels)
    raise InputError(f"--model {folder.path} does not say the size of its pictures; give --size")
