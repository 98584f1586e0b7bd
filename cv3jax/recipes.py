"""Recipes: finding a config file by name or path, applying `--config.a.b=v`, and keeping it with a
checkpoint as JSON.
"""

import importlib.util
import json
from pathlib import Path

from absl import flags
from ml_collections import ConfigDict, config_flags

from data_pipeline.io.arguments import local
from data_pipeline.io.errors import InputError

# what every recipe has
SECTIONS = ("stage", "seed", "mesh", "batch", "data", "model", "objective", "optim", "train")
SHARED = ("__init__", "common", "common_distillation")  # files beside the recipes that are none


def recipes() -> dict[str, Path]:
    """Name → file of the recipes that travel with the package."""
    directory = Path(importlib.util.find_spec("cv3jax.configs").submodule_search_locations[0])
    return {path.stem: path for path in sorted(directory.glob("*.py")) if path.stem not in SHARED}


def locate(spec: str) -> str:
    """`base_512:tiny` or `path/to/recipe.py:tiny` → `FILE:tiny`, which is what config_flags
    reads.
    """
    local(spec, "--config")
    name, _, variant = spec.partition(":")
    known = recipes()
    if name.endswith(".py"):
        path = Path(name)
        if not path.is_file():
            raise InputError(f"--config={spec}: there is no file {name}")
    elif name in known:
        path = known[name]
    else:
        raise InputError(
            f"--config={spec}: no recipe {name!r}; give a .py file or one of {', '.join(known)}"
        )
    return f"{path}:{variant}"


def load(spec: str, overrides: list[str]) -> ConfigDict:
    """The locked config of `spec` with `--config.a.b=v` overrides applied.

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
        message = _one_line(e)
        known = isinstance(e, (flags.Error, AttributeError, KeyError, TypeError, ValueError))
        raise InputError(
            f"--config={spec}: {message if known else f'{type(e).__name__}: {message}'}"
        ) from e
    if missing := [name for name in SECTIONS if name not in config]:
        raise InputError(
            f"--config={spec}: the config has no {', '.join(missing)}; start it from"
            " cv3jax.configs.common"
        )
    _check_paths(to_json(config))
    return config


def _check_paths(values: dict, prefix: str = "config.") -> None:
    """Raise InputError where a field names a place that is none of this machine's file systems."""
    for name, value in values.items():
        if isinstance(value, dict):
            _check_paths(value, f"{prefix}{name}.")
        elif isinstance(value, str) and value:
            for one in value.split(","):  # config.data.path may have several, with weights
                local(one.strip() or ".", f"{prefix}{name} =")


def _one_line(e: Exception) -> str:
    """What an exception of a recipe or an override says, in one line."""
    # ConfigDict puts a KeyError in it
    inner = e.args[0] if isinstance(e, AttributeError) and e.args else e
    said = str(e)
    # its own str is a repr; ConfigDict's has the name in quotes, or a sentence
    if isinstance(inner, KeyError) and inner.args:
        said = str(inner.args[0]).partition(" Other fields present")[0]
        said = f"no field {said}" if said.startswith("'") else said
    lines = said.strip().splitlines() or [""]
    return lines[-1] if "Traceback (most recent call last):" in said else "; ".join(lines)


def to_json(config: ConfigDict) -> dict:
    """The config as plain JSON values, tuples as lists."""
    return json.loads(config.to_json_best_effort())


def differences(ours: dict, theirs: dict, prefix: str = "") -> list[str]:
    """Dotted names of the fields in which two JSON configs differ."""
    names = []
    for key in sorted(ours.keys() | theirs.keys()):
        a, b = ours.get(key), theirs.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            names += differences(a, b, f"{prefix}{key}.")
        elif a != b:
            names.append(f"{prefix}{key}")
    return names
