"""The flags that commands share, each made in one place, so that it has one name and one meaning.

A command's module has `parser()`, which imports nothing that takes time, and `main(argv)`.
"""

import argparse
import glob
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import MappingProxyType

from cv3jax.checkpoints import cascades
from cv3jax.distributed.independent import which_share
from cv3jax.kernels import KINDS
from cv3jax.recipes import evaluations_by, fields_called, recipes
from data_pipeline.io.arguments import Parser, stored
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.shares import Share

# without --tile, of commands that ask the compiled programs
FITTING = "as a whole, or in the largest tiles that fit where that does not fit into memory"


def command(
    name: str,
    description: str,
    example: str,
    *,
    old: Mapping[str, str] = MappingProxyType({}),
    config: bool = False,
    known: Callable[[], Iterable[str]] = recipes,
) -> Parser:
    """Return the parser of `cv3jax <name>`, with an example under its --help.

    old: the names that its flags had before, each with today's. config: whether it takes a recipe,
    by --config, and sets its fields by `--config.a.b=v`. known: returns the recipes' names.
    """
    if config:
        example = (
            f"{example}\n\nrecipes: {', '.join(known())} (each also :tiny)\n"
            "any field: --config.optim.lr=1e-4"
        )
    made = Parser(
        prog=f"cv3jax {name}",
        description=description,
        example=example,
        old=old,
        others=lambda flag: config and flag.startswith("--config."),
        hint=_field_hint if config else lambda flag: "",
    )
    if config:
        made.add_argument(
            "--config",
            required=True,
            metavar="NAME[:VARIANT]|FILE.py",
            help="the recipe; --config.a.b=v sets any of its fields",
        ).completer = lambda **_: list(known())
    return made


def _field_hint(flag: str) -> str:
    """Return which fields of a recipe a flag such as --lr may mean, or ""."""
    if not (fields := fields_called(flag.removeprefix("--").replace("-", "_"))):
        return ""
    return f"it is a field of the recipe, so give {' or '.join(f'--config.{f}' for f in fields)}"


def add_workdir(parser: Parser, *, stores: bool = False) -> None:
    """Add --workdir, the directory in which a run keeps all that it makes.

    stores: it may also be an address in an object store.
    """
    parser.add_argument(
        "--workdir",
        required=True,
        type=stored if stores else Path,
        metavar="DIR",
        help="directory for all files of the run; an existing run is resumed"
        + ("; or an address: s3://bucket/run or gs://bucket/run" if stores else ""),
    )


def add_out(parser: Parser, help: str, *, stores: bool = False) -> None:
    """Add --out, the directory that a command writes.

    stores: it may also be an address in an object store.
    """
    parser.add_argument(
        "--out",
        required=True,
        type=stored if stores else Path,
        metavar="DIR",
        help=f"{help}; or an address: s3://bucket/out or gs://bucket/out" if stores else help,
    )


def add_checkpoint(parser: Parser, help: str, *, required: bool = True) -> None:
    """Add --checkpoint, the trained cascade that a command reads."""
    action = parser.add_argument(
        "--checkpoint", required=required, type=stored, metavar="DIR", help=help
    )
    action.completer = _checkpoints


def _checkpoints(prefix: str, **_) -> list[str]:
    """Return what Tab may make of the beginning of a --checkpoint."""
    places = glob.glob(f"{glob.escape(prefix)}*/")
    return [*(name for name in cascades.packaged() if name.startswith(prefix)), *places]


def add_devices(parser: Parser, batch: str, mesh: str) -> None:
    """Add --batch and --mesh of a command that runs models over this machine's devices.

    batch: the default, in words. mesh: what --mesh says.
    """
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help=f"images per device at a time (default: {batch})",
    )
    parser.add_argument("--mesh", metavar="AXIS=N,...", help=mesh)


def add_tile(parser: Parser, otherwise: str) -> None:
    """Add --tile, with which large pictures are drawn in bounded memory.

    It is None without the flag. otherwise: what is done then, in words.
    """
    parser.add_argument(
        "--tile",
        type=int,
        metavar="PIXELS",
        help=(
            "predict larger pictures in overlapping tiles of so many pixels per side, and encode"
            f" and decode them in tiles, in less memory and more time; 0: as a whole (default:"
            f" {otherwise})"
        ),
    )


def check_tile(tile: int | None) -> None:
    """Raise InputError on a --tile that no stage can have."""
    if tile and not 16 <= tile <= 16_384:
        raise InputError(f"--tile {tile}: 16..16384 pixels, or 0 for no tiles")


def add_attention(parser: Parser) -> None:
    """Add --attention, the kernel of the UNets' attention."""
    parser.add_argument(
        "--attention",
        choices=KINDS,
        default="auto",
        help=(
            "attention kernel of the UNets: xla, cudnn (GPU), splash (TPU), heads (CPU), or auto:"
            " chosen by devices and sizes (default)"
        ),
    )


def add_network(parser: Parser, clients: str) -> argparse._ArgumentGroup:
    """Add --host, --port and --public-url of a server, and return their group.

    clients: who calls the public address, with the verb.
    """
    group = parser.add_argument_group("network")
    group.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="where to listen; 0.0.0.0 is everywhere (default: %(default)s, this machine alone)",
    )
    group.add_argument(
        "--port",
        type=int,
        default=8000,
        metavar="N",
        help="port to listen at; 0 takes one that is free (default: %(default)s)",
    )
    group.add_argument(
        "--public-url",
        metavar="URL",
        help=f"the address that {clients}, where it is another, such as that of a proxy",
    )
    return group


def evaluation_command(name: str, description: str, example: str, *, swept: bool) -> Parser:
    """Return the parser of a command with --config of a recipe of evaluations.

    swept: whether its recipes have a `sweep()`.
    """
    known = evaluations_by(swept=swept)
    made = Parser(
        prog=f"cv3jax {name}",
        description=description,
        example=f"{example}\n\nrecipes: {', '.join(known)}",
        others=lambda flag: flag.startswith("--config."),
    )
    fields = "any of its fields that sweep() does not set" if swept else "any of its fields"
    made.add_argument(
        "--config",
        required=True,
        metavar="NAME|FILE.py",
        help=f"the recipe; --config.a.b=v sets {fields}",
    ).completer = lambda **_: list(known)
    return made


def add_share(parser: argparse._ActionsContainer, work: str) -> None:
    """Add --process-id and --num-processes of independent processes that share `work`."""
    parser.add_argument(
        "--process-id",
        type=int,
        metavar="I",
        help=f"which share of {work} this process makes, 0..N-1 (default: from Slurm or"
        " JAX_PROCESS_ID)",
    )
    parser.add_argument(
        "--num-processes",
        type=int,
        metavar="N",
        help="number of processes that share the work; all have the same --out",
    )


def share_of(args: argparse.Namespace) -> Share:
    """Return the share of this process, by --process-id and --num-processes.

    Raises InputError where they do not fit together, or several processes would share an address.
    """
    share = which_share(args.process_id, args.num_processes)
    if share.count > 1 and (address := address_of(args.out)):
        raise InputError(
            f"--out {address}: several processes cannot share an address; give each one an address"
            " and input of its own, or a directory that all of them see"
        )
    return share


def add_allow_changed(parser: Parser) -> None:
    """Add --allow-changed of a command that resumes a run."""
    parser.add_argument(
        "--allow-changed",
        type=_fields,
        default=(),
        metavar="A,B",
        help=(
            "fields that may have other values than the run began with, such as optim.lr,data.path;"
            " the change is recorded in run.json and the checkpoints"
        ),
    )


def _fields(text: str) -> tuple[str, ...]:
    return tuple(
        name.strip().removeprefix("--").removeprefix("config.")
        for name in text.split(",")
        if name.strip()
    )
