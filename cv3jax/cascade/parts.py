"""Build, initialise and load the models of a cascade's parts from their description."""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, SingleDeviceSharding

from cv3jax.cascade.kept_shapes import fields_of, kept
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.distributed.partitioning import abstract, make_constrain
from cv3jax.models.precision import as_computed
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from data_pipeline.io.errors import InputError
from data_pipeline.loading.tokenizer import Tokenize, load_tokenizer

# fields of config.model that do not change the shapes of a part's arrays
SIZELESS = {"dtype", "remat"}
# fields that no description sets: functions, and those of every flax module
UNDESCRIBED = {"attend", "constrain", "gather", "name", "parent"}


def part_loader(
    path: str, part: str, model: Mapping[str, Any], field: str = "init_from"
) -> Callable[[Any, Any], Any]:
    """Return a function (shapes, shardings) → the EMA of `part` of the checkpoint at `path`.

    It is loaded in the types of the shapes. `model` is config.model, for the message where the
    sizes differ. field: of the config, which has `path`.

    Raises:
        InputError: at once where there is no such checkpoint or part; on loading where its sizes
            differ.
    """
    directory, description = cascades.read_cascade(path)
    if part not in description.parts:
        fitting = () if part == "vae" else description.stages  # UNets start from each other
        raise InputError(
            f"config.{field} = {path} has no part {part}; "
            + (
                f"set config.init_part to one of its stages: {', '.join(fitting)}"
                if fitting
                else f"it has {', '.join(description.parts) or 'no part'}. Give the workdir of a"
                f" run that trained one, or leave config.{field} out"
            )
        )

    def load(shapes, shardings):
        check_sizes(description, part, shapes, model, f"config.{field} = {path}")
        place, within = cascades.place_of(directory, part)
        return cascades.load_part(place, abstract(shapes, shardings), within)

    return load


def check_sizes(
    description: CascadeDescription, part: str, shapes: Any, model: Mapping[str, Any], where: str
) -> None:
    """Raise InputError where the shapes of `model`, config.model, are not those of a part.

    where: the field with the checkpoint, for the message.
    """
    if differing := _differing_arrays(part_shapes(description, part), shapes):
        fields = _differences(description.section(part).model, model, part)
        raise InputError(f"{where}: its {part} differs from config.model: {fields or differing}")


def _differing_arrays(theirs: Any, ours: Any) -> str:
    """Return what to say of arrays that differ although the fields are equal, or "".

    Then the latents or the text features have another width.
    """
    a, b = (
        {jax.tree_util.keystr(path, simple=True, separator="/"): x.shape for path, x in leaves}
        for leaves in map(jax.tree.leaves_with_path, (theirs, ours))
    )
    differ = sorted(name for name in a.keys() | b.keys() if a.get(name) != b.get(name))
    if not differ:
        return ""
    there, here = (sizes.get(differ[0], "not") for sizes in (a, b))
    return (
        f"{differ[0]} is {there} in the checkpoint and {here} in this run, although all fields"
        " agree; the checkpoint was trained on latents or text features of another width, so give"
        " its own cascade as --config.cascade"
    )


def _differences(theirs: Mapping[str, Any], ours: Mapping[str, Any], part: str) -> str:
    """Return the fields in which two models differ, and what would fit; "" where none differs.

    A field that a description lacks has the model's default. Converted ones lack some.
    """

    def plain(value):
        return tuple(value) if isinstance(value, list) else value

    known = {field.name: field.default for field in dataclasses.fields(_class_of(part))}
    theirs = {**known, **theirs}
    differ = {
        name: (plain(theirs[name]), plain(ours[name]))
        for name in sorted(theirs.keys() & ours.keys() - SIZELESS)
        if plain(theirs[name]) != plain(ours[name])
    }
    if not differ:
        return ""
    shown = ", ".join(
        f"{name} is {a} in the checkpoint and {b} in the recipe" for name, (a, b) in differ.items()
    )
    if differ.get("w_dim", (0, 0))[0]:
        return (
            f"{shown}; the checkpoint is distilled, so give the {part} that it was distilled from"
        )
    flags = " ".join(
        f"--config.model.{name}={str(a).replace(' ', '')}" for name, (a, _) in differ.items()
    )
    return f"{shown}; give {flags}"


def _class_of(part: str) -> type:
    return Autoencoder if part == "vae" else UNet


def model_of(cls: type, section: Mapping[str, Any], where: str, **extra: Any) -> Any:
    """Return a model from a config section. Raises InputError that names the section."""
    try:
        return build_model(cls, dict(section), **extra)
    except InputError as e:
        raise InputError(f"{where}: {e}") from e


def build_model(cls: type, fields: dict, **extra: Any) -> Any:
    """Return a model from the fields of a description, with JSON's lists as tuples.

    Raises InputError on a field that the model does not have or that `extra` sets.
    """
    known = {field.name for field in dataclasses.fields(cls)} - UNDESCRIBED - set(extra)
    if unknown := sorted(set(fields) - known):
        raise InputError(
            f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(sorted(known))}"
        )
    return cls(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        },
        **extra,
    )


def build_on(mesh: Mesh | None, cls: type, fields: dict, **extra: Any) -> Any:
    """Return `build_model` for a model that runs on `mesh`.

    A model with a `constrain` field gets the sharding of its activations.
    """
    if mesh is not None and "constrain" in {field.name for field in dataclasses.fields(cls)}:
        extra["constrain"] = make_constrain(mesh)
    return build_model(cls, fields, **extra)


def unet_init(model: UNet, text_width: int) -> Callable[[jax.Array], Any]:
    """Return a function key → fresh UNet parameters for text features of that width."""
    side = 2 ** (len(model.channel_mult) - 1)

    def init(key):
        cond = make_cond(jnp.zeros((1, 8, text_width)), picture_sizes(1, 64, 64))
        return model.init(
            key, jnp.zeros((1, side, side, model.out_channels)), jnp.zeros((1,), jnp.int32), cond
        )["params"]

    return init


def t5_init(model: T5Encoder) -> Callable[[jax.Array], Any]:
    """Return a function key → fresh text encoder parameters."""
    return lambda key: model.init(key, jnp.zeros((1, 8), jnp.int32))["params"]


def vae_init(model: Autoencoder) -> Callable[[jax.Array], Any]:
    """Return a function key → fresh autoencoder parameters."""
    return lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)))["params"]


@functools.cache  # many commands ask for the same one
def model_shapes(model: UNet | Autoencoder | T5Encoder, text_width: int = 0) -> Any:
    """Return the parameters of a model as ShapeDtypeStructs.

    text_width: of the text features that a UNet reads. Do not change the result in place: it is
    cached.
    """
    if isinstance(model, UNet):
        init = unet_init(model, text_width)
    else:
        init = t5_init(model) if isinstance(model, T5Encoder) else vae_init(model)
    fields = {**fields_of(model, UNDESCRIBED), "text_width": text_width}
    return kept(fields, lambda: jax.eval_shape(init, jax.random.key(0)))


def part_shapes(description: CascadeDescription, part: str) -> Any:
    """Return the parameters of a part as its description says, as ShapeDtypeStructs."""
    if part == "vae":
        return model_shapes(build_model(Autoencoder, description.vae.model))
    if part == "t5":
        return model_shapes(build_model(T5Encoder, description.t5.model))
    stage = description.stages[part]
    return model_shapes(build_model(UNet, stage.model), stage.text_width)


def computed_shapes(description: CascadeDescription, part: str) -> Any:
    """Return `part_shapes` with matrices in the type in which the part computes."""
    dtype = description.section(part).model.get("dtype", "float32")
    return as_computed(part_shapes(description, part), dtype)


def load_params(
    directory: Path,
    description: CascadeDescription,
    parts: tuple[str, ...] = (),
    placement: Callable | None = None,
    *,
    computed: bool = False,
) -> tuple[dict, Callable | None]:
    """Return (parameters by part, tokenizer or None) of the parts named, or of all parts.

    placement: shapes → shardings. By default every part goes to the first device of this process,
    whatever number of devices it was trained on.

    computed: load matrices in the type in which the part computes. With bfloat16 this halves the
    memory; use it for parameters that are only read.
    """
    placement = placement or (lambda _: SingleDeviceSharding(jax.local_devices()[0]))
    available = description.parts
    if missing := [part for part in parts if part not in available]:
        raise InputError(
            f"{directory} has no {', '.join(missing)}; its parts are {', '.join(available)}"
        )
    params = {}
    for part in parts or available:
        tree = computed_shapes(description, part) if computed else part_shapes(description, part)
        place, within = cascades.place_of(directory, part)
        params[part] = cascades.load_part(place, abstract(tree, placement(tree)), within)
    return params, read_tokenizer(directory, description) if "t5" in params else None


def read_tokenizer(directory: Path, description: CascadeDescription) -> Tokenize:
    """Return the tokenizer of a cascade that has a text encoder, and its description.

    directory: as `read_cascade` returned it. Raises InputError where it is missing or damaged.
    """
    place, _ = cascades.place_of(directory, "t5/tokenizer")
    cascades.check_part(place)
    return load_tokenizer(place, description.t5.length)
