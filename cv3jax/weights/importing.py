"""Import released weights: PyTorch files → the parts of a cascade directory.

Every name and shape is checked first.
"""

import contextlib
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import jax

from cv3jax.cascade.parts import build_model, model_shapes
from cv3jax.checkpoints import cascades, manifest
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.description_fields import T5
from cv3jax.checkpoints.streaming import Leaf, walk
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.weights import TOKENIZER_FILES, diffusers, infer_sizes, select_model
from cv3jax.weights.files import Tensors, open_tensors
from cv3jax.weights.latent_preview import previewed
from cv3jax.weights.mapping import check_tensors, stack, torch_shapes
from cv3jax.weights.names import GROUPS, Entry, t5_entries, unet_entries, vae_entries
from cv3jax.weights.release_yaml import Official, disagreement
from cv3jax.weights.values import Values, watched
from data_pipeline.io.bounded_json import SETTINGS, ParseError, load_json
from data_pipeline.io.errors import InputError, counted, first_line, naming
from data_pipeline.io.progress import bar
from data_pipeline.io.staging import appearing


class Part(NamedTuple):
    """One model of a cascade, with its parameters still in their file."""

    model: dict[str, Any]  # fields of the model, as cascade.json keeps them
    params: dict  # nested leaves
    more: dict[str, Any]  # what else the file shows: text_width, scale
    words: list[str]  # what was recognised, line by line


def import_unet(
    path: Path, flag: str, *, head_channels: int | None, official: Official | None, dtype: str
) -> Part:
    """Return a UNet from a SAT folder, .pt or safetensors file.

    Raises:
        InputError: there is no such file, it is damaged or carries code, or its tensors are not
            those of a UNet of CogView3's family.
    """
    tensors, where, others = _open(path, flag, "unet")
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    said = official.head_channels if official else None
    head = said if head_channels is None else head_channels
    fields, width = _recognised(
        where, lambda: (infer_sizes.unet_fields(shapes, head), infer_sizes.text_width(shapes))
    )
    if official and (problem := disagreement(official, fields)):
        raise InputError(f"{flag} {path}: {problem}; give the configuration that belongs to it")
    fields = {**fields, "groups": GROUPS, "remat": "none", "dtype": dtype}
    entries = unet_entries(
        **{
            name: fields[name]
            for name in ("channels", "channel_mult", "res_blocks", "depth", "mid_depth", "w_dim")
        }
    )
    params = _fit(tensors, entries, lambda: model_shapes(build_model(UNet, fields), width), where)
    why = (
        "--head-channels"
        if head_channels is not None
        else official.path.name
        if said
        else "default: every attention width divides by it"
    )
    distilled = (
        f"distilled, w in {fields['w_dim']} dimensions" if fields["w_dim"] else "not distilled"
    )
    words = [
        (
            f"UNet of {fields['channels']} × {fields['channel_mult']} channels,"
            f" {fields['res_blocks']} blocks a stage, depth {fields['depth']} and"
            f" {fields['mid_depth']} in the middle, {fields['out_channels']} latent channels, text"
            f" {width} wide, {distilled}"
        ),
        f"heads of {fields['head_dim']} channels ({why})",
        *_contents(tensors, others, where),
    ]
    return Part(fields, params, {"text_width": width}, words)


def import_vae(path: Path, flag: str) -> Part:
    """Return an autoencoder with sgm's names, or from a diffusers AutoencoderKL folder.

    Raises as `import_unet`.
    """
    tensors, where, others = _open(path, flag, "vae")
    more, words = {}, []
    tensors = {diffusers.old_attention(name): tensor for name, tensor in tensors.items()}
    if any(".down_blocks." in name for name in tensors):
        folder = path if path.is_dir() else path.parent
        fields, more["scale"] = diffusers.vae_fields(_read_config(folder), f"{folder}/config.json")
        names = diffusers.vae_names
        words = [f"diffusers' AutoencoderKL, latent scale {more['scale']} (config.json)"]
    else:
        fields = _recognised(
            where,
            lambda: infer_sizes.vae_fields(
                {name: tensor.shape for name, tensor in tensors.items()}
            ),
        )
        fields, names = {**fields, "groups": GROUPS}, lambda entries, stages: entries
    # SDXL's autoencoder overflows in float16
    fields = {**fields, "patch": 1, "mid_attention": True, "dtype": "float32"}
    sizes = {name: fields[name] for name in ("channels", "channel_mult", "res_blocks")}
    entries = names(vae_entries(**sizes), len(fields["channel_mult"]))
    params = _fit(tensors, entries, lambda: model_shapes(build_model(Autoencoder, fields)), where)
    sizes_in_words = (
        f"autoencoder of {fields['channels']} × {fields['channel_mult']} channels,"
        f" {fields['res_blocks']} blocks a stage"
    )
    words = [
        f"{sizes_in_words}, {fields['z_channels']} latent channels",
        *words,
        *_contents(tensors, others, where),
    ]
    return Part(fields, params, more, words)


def import_t5(path: Path, flag: str, *, dtype: str) -> Part:
    """Return the encoder of a T5 v1.1 with transformers' names. Raises as `import_unet`."""
    tensors, where, others = _open(path, flag, "t5")
    fields = _recognised(
        where,
        lambda: infer_sizes.t5_fields({name: tensor.shape for name, tensor in tensors.items()}),
    )
    folder = path if path.is_dir() else path.parent
    config = _read_config(folder) if (folder / "config.json").exists() else {}
    if config.get("feed_forward_proj", "gated-gelu") != "gated-gelu":
        raise InputError(
            f"{folder}/config.json: feed_forward_proj is {str(config['feed_forward_proj'])[:40]},"
            " but T5 v1.1 has gated-gelu"
        )
    distance, epsilon = (
        config.get("relative_attention_max_distance", 128),
        config.get("layer_norm_epsilon", 1e-6),
    )
    if not T5["max_distance"].rule.fits(distance) or not T5["epsilon"].rule.fits(epsilon):
        raise InputError(
            f"{folder}/config.json: relative_attention_max_distance {str(distance)[:40]} or"
            f" layer_norm_epsilon {str(epsilon)[:40]} cannot be a T5's"
        )
    fields = {**fields, "max_distance": distance, "epsilon": epsilon, "dtype": dtype}
    params = _fit(
        tensors,
        t5_entries(layers=fields["layers"]),
        lambda: model_shapes(build_model(T5Encoder, fields)),
        where,
    )
    sizes = (
        f"T5 encoder of {fields['layers']} layers, {fields['channels']} channels, {fields['heads']}"
        f" heads of {fields['head_dim']}"
    )
    return Part(
        fields,
        params,
        {},
        [
            f"{sizes}, {fields['ff']} in between, {fields['vocab']} tokens",
            *_contents(tensors, others, where),
        ],
    )


def write(
    out: Path, parts: dict[str, Part], description: CascadeDescription, tokenizer: Path | None
) -> list[str]:
    """Write the cascade directory `out`, which appears in one step.

    Returns lines on the values of the parts, which are looked at while they are copied.

    Raises:
        InputError: `out` exists, another conversion writes it, or a tensor cannot be read.
        OSError: it could not be written; nothing of it is left.
    """
    found = {name: Values() for name in parts}
    with appearing(out) as partial:
        for name, part in parts.items():
            with progress(name, watched(part.params, found[name])) as params:
                cascades.save_part(partial / name, params)
        if tokenizer:
            copy_tokenizer(tokenizer, partial / "t5" / "tokenizer")
            manifest.write(partial / "t5" / "tokenizer")
        cascades.write_cascade(partial, description)  # which readers of parts need
        cascades.write_cascade(partial, previewed(partial, description))
    return [f"{name}: {line}" for name, values in found.items() for line in values.words()]


def _open(path: Path, flag: str, kind: str) -> tuple[Tensors, str, dict[str, int]]:
    tensors, file = open_tensors(path, flag)
    where = f"{flag} {file}"
    tensors, others, prefix = select_model.pick(tensors, kind, where)
    known = prefix in ("", select_model.PREFIX[kind])
    return tensors, where if known else f"{where} (under {prefix}*)", others


def _recognised(where: str, sizes: Callable[[], Any]) -> Any:
    try:
        return sizes()
    except InputError as e:
        raise InputError(f"{where}: {e}") from e


def _fit(tensors: Tensors, entries: list[Entry], shapes: Callable[[], Any], where: str) -> dict:
    """Return `tensors` as our parameters.

    They must be exactly those of a model of the recognised sizes. Raises InputError.
    """
    try:
        wanted = torch_shapes(shapes(), entries)
    except (ValueError, TypeError, ArithmeticError, LookupError, AssertionError, MemoryError) as e:
        raise InputError(
            f"{where}: the shapes of its tensors do not make a model ({first_line(e)})"
        ) from e
    check_tensors({name: tensor.shape for name, tensor in tensors.items()}, wanted, where)
    return stack(tensors, entries)


def _contents(tensors: Tensors, others: dict[str, int], where: str) -> list[str]:
    count = sum(tensor.size for tensor in tensors.values())
    dtypes = select_model.dtypes(tensors)
    line = f"{counted(len(tensors), 'tensor')}, {counted(count, 'parameter')}, {dtypes}, of {where}"
    return [line, select_model.words(others)] if others else [line]


def _read_config(folder: Path) -> dict:
    """Return config.json of a Hugging Face folder."""
    path = folder / "config.json"
    try:
        config = load_json(path, SETTINGS)
    except (OSError, ParseError) as e:
        raise InputError(
            f"{path} cannot be read: {getattr(e, 'strerror', None) or e}; the folder needs one"
        ) from e
    if not isinstance(config, dict):
        raise InputError(f"{path} is not a JSON object; get it again")
    return config


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copy the files of a tokenizer, and nothing else of the folder."""
    target.mkdir(parents=True, exist_ok=True)
    for name in TOKENIZER_FILES:
        if (source / name).is_file():
            with naming(target / name):
                shutil.copyfile(source / name, target / name)


@contextlib.contextmanager
def progress(name: str, params: dict) -> Iterator[dict]:
    """Yield the same leaves, which move a bar on stderr when they are read."""
    total = sum(leaf.nbytes for _, leaf in walk(params))
    with bar(total, name, "B") as shown:

        def count(leaf: Leaf) -> Leaf:
            def read():
                value = leaf.read()
                shown.update(leaf.nbytes)
                return value

            return Leaf(leaf.shape, leaf.dtype, read)

        yield jax.tree.map(count, params)
