"""Prints one `cv3jax train` command for each point of a recipe's `sweep()`, each with its own workdir.

    python launch/sweep.py --config=relay_1024 --workdir runs/ablation -- --config.data.path=DATA --config.cascade=runs/base

`sweep()` yields dicts {"schedule.start": 200, ...}. Run the lines one after the other, e.g. `… | sh`, or hand each to a scheduler.
"""

import argparse
import importlib.util
import re
import shlex
from pathlib import Path

from cv3jax import recipe
from cv3jax.cli import run_command
from data_pipeline.errors import InputError


def points(spec: str) -> list[dict]:
    """What `sweep()` of the recipe `spec` yields. Raises InputError when it has none, or it yields nothing."""
    path = recipe.locate(spec).rpartition(":")[0]
    module_spec = importlib.util.spec_from_file_location("recipe", path)
    module = importlib.util.module_from_spec(module_spec)
    module_spec.loader.exec_module(module)
    found = list(module.sweep()) if hasattr(module, "sweep") else []
    if not found:
        raise InputError(f"--config={spec}: {path} has no sweep(); add `def sweep(): yield {{\"optim.lr\": 1e-4}}` to it")
    return found


def commands(spec: str, workdir: Path, overrides: list[str]) -> list[str]:
    """The shell commands, one a point; every one is checked against the recipe first.

    Raises:
        InputError: no sweep, a field or value that the recipe does not take, an override of a swept field, two equal points.
    """
    lines = {}
    for point in points(spec):
        settings = [f"--config.{field}={value}" for field, value in point.items()]
        if clash := [o for o in overrides if o.partition("=")[0] in {s.partition("=")[0] for s in settings}]:
            raise InputError(f"{clash[0]}: the sweep sets this field itself")
        recipe.load(spec, [*settings, *overrides])
        name = re.sub(r"[^\w.=,+-]+", "_", ",".join(f"{field}={value}" for field, value in point.items()))
        if name in lines:
            raise InputError(f"--config={spec}: two points of its sweep() would share the workdir {workdir / name}")
        lines[name] = shlex.join(["cv3jax", "train", f"--config={spec}", "--workdir", str(workdir / name), *settings, *overrides])
    return list(lines.values())


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python launch/sweep.py", description=__doc__, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", required=True, metavar="NAME[:VARIANT]|FILE.py", help="a recipe with a sweep()")
    parser.add_argument("--workdir", required=True, type=Path, help="each point's workdir is made under it")
    args, overrides = parser.parse_known_args(argv)
    print("\n".join(commands(args.config, args.workdir, [o for o in overrides if o != "--"])))


if __name__ == "__main__":
    run_command(main)
