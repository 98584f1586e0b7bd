"""Drawing with diffusers: a model's pipelines are loaded from its folders, and asked for pictures.

Nothing is downloaded, only .safetensors are read, and no code of a folder runs. Each picture has a
generator of its own on the CPU, so its noise is the same on every device and in every batch.
"""

import functools
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from cv3jax.cascade.sizes import Size
from cv3jax.evaluation.baselines.folders import Folder
from cv3jax.evaluation.baselines.models import CASCADE, LCM, Model
from data_pipeline.io.errors import FailedRunError, InputError
from data_pipeline.io.progress import say, waiting

LIBRARIES = ("diffusers", "torch", "transformers")
# half precision in which each kind was published; elsewhere bfloat16, which does not overflow
_HALF = {"sdxl": "float16", LCM: "float16"}
_KEYS = ("prompt", "height", "width", "num_inference_steps", "generator", "output_type")


class Machine(NamedTuple):
    """Where a model draws: the device for torch, its name for people, and the type of numbers."""

    device: str
    name: str
    dtype: str


class Drawer(NamedTuple):
    """A model that is loaded.

    draw: texts [N] and seeds [N] → pictures, uint8 [N, H, W, 3]. about: what is recorded of it.
    """

    draw: Callable[[Sequence[str], Sequence[int]], np.ndarray]
    about: dict[str, Any]


def machine_of(model: Model) -> Machine:
    """Return where a model draws: a GPU in half precision, or else the CPU in float32."""
    import torch

    if not torch.cuda.is_available():
        return Machine("cpu", _cpu(), "float32")
    return Machine("cuda", torch.cuda.get_device_name(), _HALF.get(model.kind, "bfloat16"))


def described(model: Model, machine: Machine, fingerprint: str) -> dict[str, Any]:
    """Return what decides a model's pictures, but for prompts, seeds and size."""
    return {
        "model": model.name,
        "fingerprint": fingerprint,
        "classes": [folder.name for folder in model.folders],
        "steps": list(model.stages.steps),
        "guidance": list(model.stages.guidance),
        "dtype": machine.dtype,
    }


def load(model: Model, machine: Machine, described: dict[str, Any]) -> Drawer:
    """Load a model onto a machine.

    Raises InputError where diffusers cannot load a folder, or its pipeline takes more than text.
    """
    _quiet()
    with waiting(f"loading {model.name}"):
        if model.kind == CASCADE:
            pipes = [_pipeline(model.folders[0], machine), _decoder(model.folders[1], machine)]
            calls = _two_stages(model, *pipes)
        else:
            pipes = [_one(model, machine)]
            calls = functools.partial(_one_stage, model, pipes[0])
    for pipe in pipes:
        pipe.to(machine.device)
        pipe.set_progress_bar_config(disable=True)
    about = {
        **described,
        "schedulers": [type(pipe.scheduler).__name__ for pipe in pipes],
        "variants": [folder.variant for folder in model.folders],
        "device": machine.name,
        "versions": {name: importlib.metadata.version(name) for name in LIBRARIES},
    }
    tokenizers = [getattr(pipe, "tokenizer", None) for pipe in pipes]
    told = _Told(next((one for one in tokenizers if one is not None), None))

    def draw(texts: Sequence[str], seeds: Sequence[int]) -> np.ndarray:
        import torch

        told.cut(texts)
        generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
        with torch.inference_mode():
            images = calls(list(texts), generators)
        return _checked(np.asarray(images, np.float32), len(texts), model)

    return Drawer(draw, about)


def _one(model: Model, machine: Machine) -> Any:
    """Return the pipeline of a model of one stage. Raises InputError where text is not enough."""
    if model.kind == LCM:
        import diffusers

        first, unet = model.folders
        network = _loading(unet, diffusers.UNet2DConditionModel, machine)
        pipe = _pipeline(first, machine, unet=network)
        pipe.scheduler = diffusers.LCMScheduler.from_config(pipe.scheduler.config)
        return pipe
    pipe = _pipeline(model.folders[0], machine)
    takes = inspect.signature(pipe.__call__).parameters
    where = f"--model {model.folders[0].path}: a {type(pipe).__name__}"
    right = "give a pipeline that draws from text alone"
    if lacking := [name for name in _KEYS if name not in takes]:
        raise InputError(f"{where} takes no {lacking[0]}; {right}")
    needed = [name for name, one in takes.items() if one.default is one.empty and one.kind < 2]
    if more := [name for name in needed if name != "prompt"]:
        raise InputError(f"{where} needs {more[0]}; {right}")
    return pipe


def _decoder(folder: Folder, machine: Machine) -> Any:
    """Return Stable Cascade's decoder, made of its components one by one.

    Folders name the VQGAN by a place in diffusers that newer versions do not look into.
    """
    import diffusers

    cls = diffusers.StableCascadeDecoderPipeline
    parts = {}
    for name, one in inspect.signature(cls.__init__).parameters.items():
        if hasattr(one.annotation, "from_pretrained"):
            place = folder._replace(path=folder.path / name)
            parts[name] = _loading(place, one.annotation, machine)
    scale = folder.index.get("latent_dim_scale", 10.67)
    return cls(**parts, latent_dim_scale=float(scale))


def _pipeline(folder: Folder, machine: Machine, **parts: Any) -> Any:
    import diffusers

    cls = getattr(diffusers, folder.name, None)
    if not (inspect.isclass(cls) and issubclass(cls, diffusers.DiffusionPipeline)):
        raise InputError(
            f"{folder.path}: this diffusers has no pipeline {folder.name}; give one that it has"
        )
    if "add_watermarker" in inspect.signature(cls.__init__).parameters:
        parts["add_watermarker"] = False  # it would depend on what is installed
    return _loading(folder, cls, machine, **parts)


def _loading(folder: Folder, cls: type, machine: Machine, **more: Any) -> Any:
    """Return what diffusers loads of a folder. Raises InputError in one line where it cannot."""
    import torch

    weights = {"variant": folder.variant, "use_safetensors": True}
    if issubclass(cls, torch.nn.Module) or cls.__name__.endswith("Pipeline"):
        kind = "dtype" if cls.__module__.startswith("transformers") else "torch_dtype"
        more |= {**weights, kind: getattr(torch, machine.dtype)}
    try:
        with warnings.catch_warnings():  # newer versions have another name for torch_dtype
            warnings.simplefilter("ignore", FutureWarning)
            return cls.from_pretrained(str(folder.path), local_files_only=True, **more)
    # what diffusers raises on a damaged folder is of many types
    except (OSError, ValueError, TypeError, KeyError, RuntimeError, AttributeError) as e:
        line = " ".join(str(e).split())[:300]
        raise InputError(f"{folder.path}: diffusers cannot load it: {line}") from e


def _one_stage(model: Model, pipe: Any, texts: list[str], generators: list[Any]) -> np.ndarray:
    steps, guidance = model.stages.steps[0], model.stages.guidance[0]
    more = {"num_inference_steps": steps, "guidance_scale": guidance}
    return pipe(
        prompt=texts,
        generator=generators,
        height=model.size.height,
        width=model.size.width,
        output_type="np",
        **{name: value for name, value in more.items() if value is not None},
    ).images


def _two_stages(model: Model, prior: Any, decoder: Any) -> Callable:
    """Return what draws with Stable Cascade: the prior's embeddings, and the pictures of them."""
    (first, second), (w, v) = model.stages

    def draw(texts: list[str], generators: list[Any]) -> np.ndarray:
        found = prior(
            prompt=texts,
            generator=generators,
            height=model.size.height,
            width=model.size.width,
            num_inference_steps=first,
            guidance_scale=w,
        )
        return decoder(
            image_embeddings=found.image_embeddings.to(decoder.decoder.dtype),
            prompt=texts,
            generator=generators,
            num_inference_steps=second,
            guidance_scale=v,
            output_type="np",
        ).images

    return draw


def _checked(images: np.ndarray, count: int, model: Model) -> np.ndarray:
    """Return pictures in [0, 1] as uint8. Raises FailedRunError and InputError on others."""
    if not np.isfinite(images).all():
        raise FailedRunError(f"{model.name} drew pictures that are not finite numbers")
    found = Size(*images.shape[1:3])
    if images.shape[0] != count or images.shape[3:] != (3,) or found != model.size:
        raise InputError(
            f"{model.name} draws {found} where --size asks for {model.size}; give a size that it"
            " can draw, such as a multiple of 128"
        )
    return np.round(np.clip(images, 0, 1) * 255).astype(np.uint8)


class _Told:
    """Say once that prompts have more tokens than a model reads; diffusers cuts them."""

    def __init__(self, tokenizer: Any):
        self._tokenizer, self._said = tokenizer, tokenizer is None

    def cut(self, texts: Sequence[str]) -> None:
        """Say it where one of the texts is too long."""
        if self._said:
            return
        most = self._tokenizer.model_max_length
        if any(len(self._tokenizer(text).input_ids) > most for text in texts):
            self._said = True
            say(f"some prompts have more than the {most} tokens that the model reads; they are cut")


def _quiet() -> None:
    """Let the libraries say errors alone, and draw no bars."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def _cpu() -> str:
    import os
    import platform

    return f"{platform.machine()} CPU, {os.cpu_count()} cores"
