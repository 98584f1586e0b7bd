"""The flags that commands share."""

import argparse
from pathlib import Path

from cv3jax.recipes import recipes
from data_pipeline.io.arguments import Parser


def parser(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """The command line every config-driven command shares: --config, --workdir, --json, and
    `--config.a.b=v` for the rest.
    """
    parse = command(
        name,
        description,
        f"{example}\n\nrecipes: {', '.join(recipes())} (each also :tiny)\nany field:"
        " --config.optim.lr=1e-4",
    )
    parse.add_argument(
        "--config", required=True, metavar="NAME[:VARIANT]|FILE.py", help="the recipe"
    )
    parse.add_argument(
        "--workdir", required=True, type=Path, help="where the run lives; an existing run continues"
    )
    parse.add_argument("--json", type=Path, metavar="FILE", help="write the final figures as JSON")
    return parse


def add_allow_changed(parse: argparse.ArgumentParser) -> None:
    """--allow-changed of commands that continue a run."""
    parse.add_argument(
        "--allow-changed",
        type=_fields,
        default=(),
        metavar="A,B",
        help=(
            "fields that may differ from the run's, such as optim.lr,data.path; kept in run.json"
            " and the checkpoints"
        ),
    )


def _fields(text: str) -> tuple[str, ...]:
    return tuple(
        name.strip().removeprefix("--").removeprefix("config.")
        for name in text.split(",")
        if name.strip()
    )


def command(name: str, description: str, example: str) -> argparse.ArgumentParser:
    """The parser of `cv3jax <name>`, with an example under its --help."""
    return Parser(
        prog=f"cv3jax {name}",
        description=description,
        allow_abbrev=False,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
