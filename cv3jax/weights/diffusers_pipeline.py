"""The files that make exported parts a pipeline of diffusers: settings, schedulers and its code.

The code is in `pytorch/`. It is copied into the folder and never imported here.
"""

from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.cascade.parts import build_model
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from cv3jax.diffusion.sampler import MEANS
from cv3jax.models.vae import Autoencoder
from cv3jax.weights.diffusers import VERSION, holds_vae
from data_pipeline.io.bounded_json import SETTINGS, load_json
from data_pipeline.io.errors import InputError
from data_pipeline.loading.tokenizer import load_tokenizer

CODE = Path(__file__).with_name("pytorch")
PIPELINE = ("pipeline.py", "pictures.py", "prompts.py", "sampling.py")
SCHEDULER, AUTOENCODER = "relay_scheduler.py", "patch_autoencoder.py"
FOLDERS = {"t5": "text_encoder"}  # parts whose folder has another name than in a cascade
TOKENIZER = "tokenizer"
PREDICTIONS = {"eps": "epsilon", "v": "v_prediction"}
# tokenizer_class of a folder → the class of transformers that loads it
TOKENIZERS = {
    "T5Tokenizer": "T5Tokenizer",
    "T5TokenizerFast": "T5TokenizerFast",
    "PreTrainedTokenizerFast": "PreTrainedTokenizerFast",
    "TokenizersBackend": "PreTrainedTokenizerFast",  # its name since transformers 5
}


class Beside(NamedTuple):
    """Files beside the parts, by their paths in the folder, and a line on them."""

    texts: dict[str, Any]  # JSON
    files: dict[str, Path]  # to copy
    line: str


def beside(
    description: CascadeDescription | None, parts: list[str], tokenizer: Path | None
) -> Beside:
    """Return what belongs beside exported parts.

    Where they are too few for a pipeline, this is the code of an autoencoder at most. description:
    None for the parameters of a run.

    Raises:
        InputError: a stage or the tokenizer is not one that the pipeline can hold.
    """
    if description is None:
        return Beside({}, {}, "no model_index.json: a pipeline takes the parts of a cascade")
    files = {}
    if "vae" in parts and not holds_vae(build_model(Autoencoder, description.vae.model)):
        files[f"vae/{AUTOENCODER}"] = CODE / AUTOENCODER
    missing = [name for name in ("vae", "t5") if name not in parts]
    if not _stages(description, parts):
        missing.append("base or relay")
    if missing:
        line = f"no model_index.json: a pipeline also takes {', '.join(missing)}"
        return Beside({}, files, line)
    texts, code = _pipeline(description, parts, tokenizer)
    line = "pipeline: model_index.json, pipeline.py and the schedulers of its stages"
    return Beside(texts, {**files, **code}, line)


def _pipeline(
    description: CascadeDescription, parts: list[str], tokenizer: Path
) -> tuple[dict[str, Any], dict[str, Path]]:
    """Return (path in the folder → JSON, path in the folder → file) of a pipeline."""
    vae, text, stages = description.vae, description.t5, _stages(description, parts)
    # it raises on a tokenizer that does not fit
    load_tokenizer(tokenizer, text.length, text.model.get("vocab"))
    model = build_model(Autoencoder, vae.model)
    settings: dict[str, Any] = {"text_length": text.length, "factor": model.factor}
    index: dict[str, Any] = {
        "_class_name": ["pipeline", "CogView3Pipeline"],
        "_diffusers_version": VERSION,
        "vae": ["diffusers", "AutoencoderKL"]
        if holds_vae(model)
        else [AUTOENCODER.removesuffix(".py"), "PatchAutoencoder"],
        "text_encoder": ["transformers", "T5EncoderModel"],
        "tokenizer": ["transformers", _tokenizer_class(tokenizer)],
        "settings": settings,
    }
    texts: dict[str, Any] = {}
    files = {name: CODE / name for name in PIPELINE}
    for name in ("base", "relay"):
        there = name in stages
        index[name] = ["diffusers", "UNet2DConditionModel"] if there else [None, None]
        scheduler = [SCHEDULER.removesuffix(".py"), "RelayScheduler"]
        index[f"{name}_scheduler"] = scheduler if there else [None, None]
        if there:
            settings[name] = _settings(stages[name])
            place = f"{name}_scheduler"
            texts[f"{place}/scheduler_config.json"] = _scheduler_config(stages[name], name)
            files[f"{place}/{SCHEDULER}"] = CODE / SCHEDULER
    return {**texts, "model_index.json": index}, files


def _stages(description: CascadeDescription, parts: list[str]) -> dict[str, StageDescription]:
    """Return the stages among the parts that sample as what they are called."""
    return {
        name: stage
        for name, stage in description.stages.items()
        if name in parts and stage.kind == name
    }


def _settings(stage: StageDescription) -> dict[str, Any]:
    """Return the pipeline's defaults for a stage."""
    return {
        "image_size": stage.image_size,
        "steps": stage.steps,
        "guidance": stage.guidance,
        "eta": stage.eta,
        "distilled": stage.distilled and stage.distilled.to_json(),
    }


def _scheduler_config(stage: StageDescription, name: str) -> dict[str, Any]:
    """Return scheduler_config.json of a stage. Raises InputError where its sampler is another."""
    for field, names in (("form", MEANS), ("prediction", PREDICTIONS)):
        if (value := getattr(stage, field)) not in names:
            raise InputError(
                f"the {name} has {field} {value!r}, but the pipeline for diffusers has"
                f" {' and '.join(names)}"
            )
    for field in ("zero_snr", "guidance_rescale"):
        if getattr(stage, field):
            raise InputError(
                f"the {name} has {field}, which the pipeline for diffusers does not sample with;"
                " export to another format"
            )
    return {
        "_class_name": "RelayScheduler",
        "_diffusers_version": VERSION,
        "start": stage.start if stage.kind == "relay" else 1000,
        # cascades written before blurs were recorded have none; theirs was linear
        "blur": (stage.blur or "linear") if stage.kind == "relay" else "none",
        "form": stage.form,
        "prediction_type": PREDICTIONS[stage.prediction],
    }


def _tokenizer_class(folder: Path) -> str:
    """Return the class of transformers that loads a tokenizer which `load_tokenizer` could load."""
    config = load_json(folder / "tokenizer_config.json", SETTINGS)
    said = config.get("tokenizer_class", "T5Tokenizer")
    if said not in TOKENIZERS:
        raise InputError(
            f"{folder}: its tokenizer is a {str(said)[:40]!r}, and the pipeline for diffusers takes"
            f" {', '.join(TOKENIZERS)}"
        )
    return TOKENIZERS[said]
