"""Recipes: finding a config file by name or path, and setting its fields by `--config.a.b=v`."""

import ast
import difflib
import importlib
import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from data_pipeline.io.arguments import local
from data_pipeline.io.bounded_json import parse_json
from data_pipeline.io.errors import InputError

# what every recipe has
SECTIONS = ("stage", "seed", "mesh", "batch", "data", "model", "objective", "optim", "train")
# fields that may also name an address in an object store
STORED = ("cascade", "init_from", "data.path", "data.cache", "train.eval_data")
# files beside the recipes that are none
SHARED = ("__init__", "common", "common_distillation", "common_lora")


class Source(NamedTuple):
    """Where a config comes from."""

    spec: str  # the recipe as it was given
    own: dict[str, Any]  # name → the recipe's value of each field that `--config.a.b=v` changed


def recipes() -> dict[str, Path]:
    """Return name → file of the recipes that travel with the package."""
    directory = Path(importlib.util.find_spec("cv3jax.configs").submodule_search_locations[0])
    return {path.stem: path for path in sorted(directory.glob("*.py")) if path.stem not in SHARED}


def adapters() -> dict[str, Path]:
    """Return those of `recipes` that train an adapter (LoRA) of a stage."""
    return {name: path for name, path in recipes().items() if "common.adapt(" in path.read_text()}


def evaluations() -> dict[str, Path]:
    """Return name → file of the recipes of evaluations, which train nothing."""
    directory = Path(importlib.util.find_spec("cv3jax.configs").submodule_search_locations[0])
    found = sorted((directory / "evaluation").glob("*.py"))
    return {path.stem: path for path in found if path.stem not in SHARED}


def evaluations_by(swept: bool) -> dict[str, Path]:
    """Return those of `evaluations` that have a sweep(), for ablations, or the others: tables."""
    return {
        name: path
        for name, path in evaluations().items()
        if ("\ndef sweep(" in path.read_text()) == swept
    }


def sweep_points(spec: str) -> list[dict[str, Any]]:
    """Return what `sweep()` of the recipe `spec` yields: field → value of each point.

    Raises InputError when the recipe has no sweep(), or it yields nothing.
    """
    path = locate(spec).rpartition(":")[0]
    module_spec = importlib.util.spec_from_file_location("recipe", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    found = list(module.sweep()) if hasattr(module, "sweep") else []
    if not found:
        raise InputError(
            f'--config={spec}: {path} has no sweep(); add `def sweep(): yield {{"optim.lr": 1e-4}}`'
            " to it"
        )
    return found


def sweep_flags(
    spec: str, point: dict[str, Any], overrides: list[str], sections: tuple[str, ...] = SECTIONS
) -> list[str]:
    """Return a point as `--config.field=value`, after a check of it against the recipe.

    Raises InputError: a field or value is not one of the recipe's, or `overrides` sets it too.
    """
    flags_ = [f"--config.{field}={value}" for field, value in point.items()]
    fields = {one.partition("=")[0] for one in flags_}
    if clash := [one for one in overrides if one.partition("=")[0] in fields]:
        raise InputError(f"{clash[0]}: the sweep sets this field itself; leave the flag out")
    load(spec, [*flags_, *overrides], sections)
    return flags_


def point_name(point: dict[str, Any]) -> str:
    """Return a point as the name of its folder, such as "schedule.start=200"."""
    return re.sub(
        r"[^\w.=,+-]+", "_", ",".join(f"{field}={value}" for field, value in point.items())
    )


def summary(name: str) -> str:
    """Return the first line of the docstring of a packaged recipe."""
    docstring = ast.get_docstring(ast.parse(recipes()[name].read_text())) or ""
    return docstring.partition("\n")[0]


def variants(name: str) -> tuple[str, ...]:
    """Return the variants of a packaged recipe, as in `scenes_base:tiny`."""
    common = importlib.import_module("cv3jax.configs.common")
    try:
        importlib.import_module(f"cv3jax.configs.{name}").get_config("?")
    except common.UnknownVariantError as e:
        return e.known
    return ()


def fields_called(name: str) -> list[str]:
    """Return the fields of a stage's recipe with that last name: "lr" → ["optim.lr"].

    Where there is none, they are those of an adapter's recipe: "rank" → ["lora.rank"].
    """
    common = importlib.import_module("cv3jax.configs.common")

    def called(config: ConfigDict) -> list[str]:
        return [field for field in leaves(to_json(config)) if field.rpartition(".")[2] == name]

    stage = common.stage_config()
    return called(stage) or called(common.adapt(stage, rank=1, lr=1.0, steps=1))


def locate(spec: str) -> str:
    """Return `FILE:tiny`, which config_flags reads, for `base_512:tiny` or `path/recipe.py:tiny`.

    Raises InputError where there is no such recipe or file.
    """
    local(spec, "--config")
    name, _, variant = spec.partition(":")
    known = recipes() | evaluations()
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            said = "there is no such file; give a recipe's name or the path of a .py file"
            raise InputError(f"--config={spec}: {said}")
    elif name in known:
        path = known[name]
    else:
        close = difflib.get_close_matches(name, known, 1, 0.8)
        like = f" (nearest: {close[0]})" if close else ""
        said = f"unknown recipe {name!r}{like}; give a .py file or one of {', '.join(recipes())}"
        raise InputError(f"--config={spec}: {said}")
    return f"{path}:{variant}"


def load(spec: str, overrides: list[str], sections: tuple[str, ...] = SECTIONS) -> ConfigDict:
    """Return the locked config of `spec` with `--config.a.b=v` overrides applied.

    sections: what it must have; recipes of evaluations have none of a training's.

    Raises:
        InputError: unknown recipe, unknown field (with the nearest one), a value of the wrong type.
    """
    for override in overrides:
        if not override.startswith("--config."):
            raise InputError(f"unknown argument {override}; see --help")
    values = flags.FlagValues()
    argv = ["cv3jax", f"--config={locate(spec)}", *overrides]
    config_flags.DEFINE_config_file("config", lock_config=True, flag_values=values, sys_argv=argv)
    try:
        if values(argv)[1:]:
            raise InputError(f"unknown arguments {' '.join(values(argv)[1:])}; see --help")
        config = values.config
    except InputError:
        raise
    except Exception as e:  # the file is the user's own program
        if overrides:
            _check_overrides(load(spec, [], sections), spec, overrides)
        message = _one_line(e)
        known = isinstance(e, (flags.Error, AttributeError, KeyError, TypeError, ValueError))
        raise InputError(
            f"--config={spec}: {message if known else f'{type(e).__name__}: {message}'}"
        ) from e
    if missing := [name for name in sections if name not in config]:
        raise InputError(
            f"--config={spec}: the recipe has no {', '.join(missing)}; begin it with a config of"
            " cv3jax.configs.common"
        )
    _check_paths(to_json(config))
    return config


def source(spec: str, config: ConfigDict) -> Source:
    """Return where `config`, loaded from `spec`, comes from."""
    own = to_json(load(spec, []))
    return Source(spec, {name: at(own, name) for name in differences(own, to_json(config))})


def _check_overrides(config: ConfigDict, spec: str, overrides: list[str]) -> None:
    """Raise InputError on an override of no field, of a section, or with a value of another type.

    The nearest field is named.
    """
    fields = leaves(config.to_dict())
    for override in overrides:
        name, _, value = override.removeprefix("--config.").partition("=")
        plain = re.sub(r"\[.*", "", name)
        if any(field.startswith(f"{plain}.") for field in fields):
            some = next(field for field in fields if field.startswith(f"{plain}."))
            raise InputError(
                f"--config.{name}={value}: {plain} is a section; set one of its fields, such as"
                f" --config.{some}"
            )
        if plain not in fields:
            raise InputError(
                f"--config.{name}: {spec} has no field {plain!r}; the nearest one is"
                f" {nearest(plain, list(fields))!r} (`cv3jax config {spec}` prints them all)"
            )
        *sections, last = plain.split(".")
        of = config
        for section in sections:
            of = of[section]
        kind = of.get_type(last)
        if kind in (int, float):
            try:
                kind(value)
            except ValueError as e:
                raise InputError(f"--config.{name}={value}: must be of type {kind.__name__}") from e
        if kind is bool and value.lower() not in ("true", "t", "1", "false", "f", "0", ""):
            raise InputError(f"--config.{name}={value}: must be True or False")


def nearest(name: str, known: list[str]) -> str:
    """Return the dotted name among `known` that looks most like `name`, as a whole or its end."""

    def alike(other: str) -> float:
        ends = (one.rpartition(".")[2] for one in (name, other))
        whole, end = (
            difflib.SequenceMatcher(None, *pair).ratio() for pair in ((name, other), ends)
        )
        return max(whole, 0.9 * end) + 0.1 * whole

    return max(known, key=alike)


def leaves(values: dict, prefix: str = "") -> dict[str, Any]:
    """Return dotted name → value of all fields of a recipe."""
    found = {}
    for name, value in values.items():
        inner = leaves(value, f"{prefix}{name}.") if isinstance(value, dict) else None
        found |= {f"{prefix}{name}": value} if inner is None else inner
    return found


def _check_paths(values: dict) -> None:
    """Raise InputError where a field names a place that is none of this machine's file systems."""
    for name, value in leaves(values).items():
        if isinstance(value, str) and value:
            for one in value.split(","):  # config.data.path may have several, with weights
                if name not in STORED or not re.match("(s3|gs)://[^/]", one.strip()):
                    local(one.strip() or ".", f"config.{name} =")


def _one_line(e: Exception) -> str:
    """Return what an exception of a recipe or an override says, in one line."""
    # ConfigDict puts a KeyError in it
    inner = e.args[0] if isinstance(e, AttributeError) and e.args else e
    said = str(e)
    # its own str is a repr; ConfigDict's has the name in quotes, or a sentence
    if isinstance(inner, KeyError) and inner.args:
        said = str(inner.args[0]).partition(" Other fields present")[0]
        said = f"no field {said}" if said.startswith("'") else said
    lines = said.strip().splitlines() or [""]
    if "Traceback (most recent call last):" in said:
        # an error of `common.select` needs no name of its type
        return lines[-1].removeprefix("cv3jax.configs.common.UnknownVariantError: ")
    return "; ".join(lines)


def to_json(config: ConfigDict) -> dict:
    """Return the config as plain JSON values, tuples as lists."""
    return parse_json(config.to_json_best_effort(), nan=True, surrogates=True)


def at(config: dict, name: str) -> Any:
    """Return the value of a dotted field of a JSON config; None where there is none."""
    value: Any = config
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def differences(ours: dict, theirs: dict) -> list[str]:
    """Return the dotted names of the fields in which two JSON configs differ."""
    names = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += [f"{key}.{name}" for name in differences(a, b)]
        elif a != b:
            names.append(key)
    return names
