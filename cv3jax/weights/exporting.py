"""Export trained weights, of a cascade or of a run's checkpoint, as files that PyTorch reads."""

import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from cv3jax.cascade.parts import build_model, model_shapes
from cv3jax.checkpoints import cascades, runs, streaming
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.description_checks import STAGES
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.weights import diffusers
from cv3jax.weights.diffusers_pipeline import FOLDERS, TOKENIZER, Beside, beside
from cv3jax.weights.files import SAT_FILE
from cv3jax.weights.importing import copy_tokenizer, progress
from cv3jax.weights.mapping import to_torch
from cv3jax.weights.names import GROUPS, Entry, t5_entries, unet_entries, vae_entries
from cv3jax.weights.select_model import PREFIX
from cv3jax.weights.torch_file import save_torch
from data_pipeline.io import extras
from data_pipeline.io.errors import InputError, first_line, naming
from data_pipeline.io.objects.fetched import fetched
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.staging import appearing

MODELS = {"vae": Autoencoder, "t5": T5Encoder}  # other parts are UNets


class Stored(NamedTuple):
    """A part to export: its parameters, still on disk, and what is known of it."""

    params: dict  # nested leaves
    model: dict[str, Any]  # fields of the model
    text_width: int = 0  # of the text features that a UNet reads
    side: int | None = None  # of a UNet's latents; None: unknown before its run has ended
    scale: float | None = None  # of a vae's latents; None: it is measured when the run ends


class Source(NamedTuple):
    """The parts to export."""

    parts: dict[str, Stored]
    tokenizer: Path | None
    description: CascadeDescription | None = None  # None: a run's parameters without the EMA


def open_source(path: Path, weights: str, parts: list[str] | None = None) -> Source:
    """Return `parts` (default: all) of the cascade at `path`.

    While a run has no cascade, its newest checkpoint stands for it. For the weights "params",
    return the run's own parameters without the EMA, from its newest checkpoint.

    Raises:
        InputError: there is neither, it has no such part, or it is damaged.
    """
    if weights != "ema" and (address := address_of(path)):
        path = fetched(f"{address}/checkpoints", "--checkpoint").parent
    newest = runs.steps(path / "checkpoints")[-1:]
    if weights == "ema":
        directory, description = cascades.read_cascade(path)
        names = _chosen(parts, list(description.parts), path)
        stored = {}
        for name in names:
            place, within = cascades.place_of(directory, name)
            cascades.check_part(place.parent if within else place)
            stored[name] = _of_cascade(description, name, _tree(place, within))
        tokenizer = cascades.place_of(directory, "t5/tokenizer")[0] if "t5" in names else None
        return Source(stored, tokenizer, description)
    if not newest:
        raise InputError(
            f"--weights params: {path} has no checkpoints/; a cascade keeps the EMA only, so give"
            " the --workdir of its run, which has both"
        )
    runs.verify(path / "checkpoints", newest[0])
    config = runs.run_of(path / "checkpoints", newest[0])["config"]
    params = _tree(path / "checkpoints" / str(newest[0]) / "state", (weights,))
    names = _chosen(parts, [config["stage"]], path)
    return Source(dict.fromkeys(names, _of_run(config, params)), None)


def _chosen(parts: list[str] | None, there: list[str], path: Path) -> list[str]:
    if unknown := [part for part in parts or [] if part not in there]:
        raise InputError(
            f"--parts {','.join(parts)}: {path} has no part {unknown[0]!r}; give some of"
            f" {', '.join(there)}"
        )
    return parts or there


def export(source: Source, target: str, out: Path) -> list[str]:
    """Write the parts of `source` to the directory `out` in the format `target`.

    For diffusers, parts that are enough for a pipeline get its other files. Returns a line on each
    part, and on the pipeline.

    Raises:
        InputError: the target cannot hold a part (raised before anything is written), PyTorch is
            missing, or `out` exists.
        OSError: it could not be written; nothing of it is left.
    """
    if target == "sat":
        extras.load("torch", "writing a SAT checkpoint")
    tables = {name: _table(source, name, target) for name in source.parts}
    more = Beside({}, {}, "")
    if target == "diffusers":
        more = beside(source.description, list(source.parts), source.tokenizer)
    lines = []
    with appearing(out) as partial:
        for name, (entries, config) in tables.items():
            with progress(name, source.parts[name].params) as params:
                tensors = to_torch(params, entries)
            lines.append(_write(partial, name, tensors, config, target))
            del tensors  # before the next part's tensors
        if source.tokenizer:
            folder = TOKENIZER if target == "diffusers" else "t5"
            copy_tokenizer(source.tokenizer, partial / folder)
        for name, value in more.texts.items():
            _write_json(partial / name, value)
        for name, file in more.files.items():
            with naming(partial / name):
                (partial / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(file, partial / name)
    return [*lines, more.line] if more.line else lines


def _tree(path: Path, within: tuple[str, ...] = ()) -> dict:
    try:
        return streaming.open_tree(path, within)
    except (ValueError, KeyError, TypeError, FileNotFoundError) as e:
        raise InputError(f"{path} is not an orbax tree of parameters: {first_line(e)}") from e


def _of_cascade(description: CascadeDescription, name: str, params: dict) -> Stored:
    """Return a part as its cascade describes it."""
    if name == "vae":
        return Stored(params, description.vae.model, scale=description.vae.scale)
    if name == "t5":
        return Stored(params, description.t5.model)
    stage = description.stages[name]
    side = stage.image_size // stage.factor if stage.factor else None
    return Stored(params, stage.model, stage.text_width, side)


def _of_run(config: dict, params: dict) -> Stored:
    """Return a stage as its run's recipe describes it."""
    if config["stage"] == "vae":
        return Stored(params, config["model"])
    z = params["conv_final"]["kernel"].shape[-1]
    width = next(
        (
            leaf.shape[-2]
            for path, leaf in streaming.walk(params)
            if path[-3:] == ("cross_attention", "k", "kernel")
        ),
        0,
    )
    return Stored(params, {**config["model"], "out_channels": z}, width)


def _table(source: Source, name: str, target: str) -> tuple[list[Entry], dict[str, Any] | None]:
    """Return (the table of a part's names, its config.json or None).

    Raises InputError where the target cannot hold the part.
    """
    others = ",".join(other for other in source.parts if other != name)
    advice = f"leave it out with --parts {others}" if others else "give another checkpoint"
    part = source.parts[name]
    try:
        model = build_model(MODELS.get(name, UNet), part.model)
        shapes = model_shapes(model, part.text_width)
        described = {path: leaf.shape for path, leaf in streaming.walk(shapes)}
    except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError) as e:
        raise InputError(
            f"the description of {name} does not make a model ({first_line(e)}); restore the"
            " checkpoint"
        ) from e
    stored = {path: leaf.shape for path, leaf in streaming.walk(part.params)}
    if differing := sorted(
        "/".join(path)
        for path in described.keys() | stored.keys()
        if described.get(path) != stored.get(path)
    ):
        raise InputError(
            f"the arrays of {name} do not fit its description: {differing[0]} ({len(differing)} in"
            " all); restore the checkpoint"
        )
    if name == "t5":
        entries, config = t5_entries(layers=model.layers), diffusers.t5_config(model)
    elif name == "vae":
        entries, config = _vae_table(part, model, target, advice)
    else:
        entries = unet_entries(
            channels=model.channels,
            channel_mult=model.channel_mult,
            res_blocks=model.res_blocks,
            depth=model.depth,
            mid_depth=model.mid_depth,
            w_dim=model.w_dim,
        )
        config = None
        if target == "diffusers":
            config = diffusers.unet_config(model, part.text_width, part.side)
            entries = diffusers.unet_names(entries, len(model.channel_mult))
    if target != "diffusers" and name != "t5" and model.groups != GROUPS:
        raise InputError(
            f"the {name} has norms of {model.groups} groups, but sgm's have {GROUPS}; give --to"
            f" diffusers, or {advice}"
        )
    return entries, config


def _vae_table(
    part: Stored, model: Autoencoder, target: str, advice: str
) -> tuple[list[Entry], dict[str, Any] | None]:
    """Return `_table` of an autoencoder."""
    entries = vae_entries(
        channels=model.channels,
        channel_mult=model.channel_mult,
        res_blocks=model.res_blocks,
        norms=model.groups > 0,
        attention=model.mid_attention,
    )
    sdxl = diffusers.holds_vae(model)
    if target != "diffusers" and not sdxl:
        shown = (
            f"patch {model.patch}, {model.groups} groups of norms, middle attention"
            f" {model.mid_attention}"
        )
        raise InputError(
            f"the vae is not of SDXL's family ({shown}); give --to diffusers, or {advice}"
        )
    if target != "diffusers":
        return entries, None
    if part.scale is None:
        raise InputError(
            "the latent scale, which diffusers needs, is measured when the run ends; let the run"
            " finish"
        )
    if not sdxl:
        return entries, diffusers.patch_vae_config(model, part.scale)
    names = diffusers.vae_names(entries, len(model.channel_mult))
    return names, diffusers.vae_config(model, part.scale)


def _write(
    out: Path, name: str, tensors: dict[str, np.ndarray], config: dict | None, target: str
) -> str:
    """Write one part's files. Returns the line that describes them."""
    prefix = PREFIX["unet"] if name in STAGES and target != "diffusers" else ""
    tensors = {prefix + key: value for key, value in tensors.items()}
    if name == "t5":
        folder = FOLDERS[name] if target == "diffusers" else "t5"
        path = out / folder / "model.safetensors"
    elif target == "diffusers":
        path = out / name / diffusers.FILE
    elif target == "sat" and name != "vae":
        path = out / name / "1" / SAT_FILE
    else:
        path = out / f"{name}.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    if config is not None:
        _write_json(path.parent / "config.json", config)
    if path.name == SAT_FILE:
        (path.parent.parent / "latest").write_text("1")
        with naming(path):
            save_torch(path, tensors)
    else:
        try:
            with naming(path):
                path.touch()
                mode = path.stat().st_mode  # of ordinary files, which save_file's are not
                save_file(tensors, path, metadata={"format": "pt"})
                path.chmod(mode)
        except SafetensorError as e:
            raise OSError(None, f"could not be written ({str(e)[:200]})", str(path)) from e
    kinds, count = (
        ", ".join(sorted({value.dtype.name for value in tensors.values()})),
        sum(value.size for value in tensors.values()),
    )
    return (
        f"{name}: {path.relative_to(out)}, {len(tensors):,} tensors, {count:,} parameters, {kinds}"
    )


def _write_json(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON file, with its folder."""
    with naming(path):
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")
