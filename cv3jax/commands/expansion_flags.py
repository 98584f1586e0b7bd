"""The flags of prompt expansion, and what they say when they are taken together."""

import argparse
import os
from pathlib import Path

from cv3jax.sampling.expanding import Expanding
from data_pipeline.chat.key_variable import key_of
from data_pipeline.expansion.settings import ExpandSettings
from data_pipeline.expansion.template import DEFAULT
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory

_TIMEOUT = ExpandSettings.timeout


def add_expansion(parser: Parser, *, ablation: bool = True) -> None:
    """Add --expand and the flags that go with it; --expand-ablation where that is asked for."""
    group = parser.add_argument_group("prompt expansion")
    group.add_argument(
        "--expand",
        metavar="URL|PATH",
        help=(
            "have a language model write each prompt out before it is drawn: an OpenAI-compatible"
            " server's address, including /v1, or a local model, a folder that transformers reads"
            " or a .gguf file"
        ),
    )
    group.add_argument(
        "--expand-model", metavar="NAME", help="the model, by the server's name for it"
    )
    group.add_argument(
        "--expand-template",
        type=Path,
        metavar="FILE",
        help="what is asked, a JSON file (default: the package's)",
    )
    group.add_argument(
        "--expand-cache",
        type=Path,
        metavar="DIR",
        help="where expansions are kept for later runs (default: ~/.cache/cv3jax/expansions)",
    )
    group.add_argument(
        "--expand-key-env", metavar="NAME", help="environment variable with the server's API key"
    )
    group.add_argument(
        "--expand-timeout",
        type=float,
        metavar="S",
        help=f"seconds for one request (default: {_TIMEOUT:g})",
    )
    group.add_argument(
        "--expand-fallback",
        action="store_true",
        help="draw a prompt as it is, and say so, where its expansion fails, instead of an error",
    )
    if ablation:
        group.add_argument(
            "--expand-ablation",
            action="store_true",
            help="draw each prompt with and without expansion, with the same seeds, side by side",
        )


def expansion_of(args: argparse.Namespace) -> Expanding | None:
    """Return what the flags of prompt expansion say, or None without --expand.

    Raises:
        InputError: a flag is wrong or goes with --expand, the template or the key is missing, or a
            library is.
    """
    given = vars(args)
    if args.expand is None:
        alone = [name for name in given if name.startswith("expand_") and given[name]]
        if alone:
            raise InputError(f"--{alone[0].replace('_', '-')} goes with --expand")
        return None
    ablation = given.get("expand_ablation", False)
    if ablation:
        for name in ("image", "noise"):
            if given.get(name):
                raise InputError(f"--expand-ablation draws from seeds alone; leave --{name} out")
    key = args.expand_key_env
    settings = ExpandSettings(
        where=args.expand,
        model=args.expand_model,
        key=None if key is None else key_of("--expand-key-env", key),
        template=args.expand_template or DEFAULT,
        cache=args.expand_cache or _cache(),
        fallback=args.expand_fallback,
        timeout=_TIMEOUT if args.expand_timeout is None else args.expand_timeout,
    )
    if args.expand_cache is not None:
        check_directory(args.expand_cache, "--expand-cache")
    return Expanding(settings, settings.check(), ablation)


def _cache() -> Path | None:
    """Return the folder below the home directory, or None where it could not be written."""
    try:
        place = Path.home() / ".cache" / "cv3jax" / "expansions"
        nearest = next(folder for folder in (place, *place.parents) if folder.exists())
    except (RuntimeError, OSError):  # nobody's home
        return None
    return place if nearest.is_dir() and os.access(nearest, os.W_OK) else None
