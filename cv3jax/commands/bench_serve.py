"""`cv3jax bench-serve`: measure a server's throughput and latencies under a load of many users.

Requests arrive at random (a Poisson process) and do not wait for each other's answers. A latency
counts from when a request should have been sent.
"""

import argparse
import contextlib
import math
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cv3jax.checkpoints import cascades
from cv3jax.commands import arguments as command_line
from cv3jax.commands.serve import sizes_of
from data_pipeline.chat.key_variable import key_of
from data_pipeline.io import extras
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.exits import say
from data_pipeline.io.figures import add_json, check_json, reporting
from data_pipeline.io.progress import bar, waiting
from data_pipeline.io.terminal import tell

if TYPE_CHECKING:
    from cv3jax.serving.load.arrivals import Kind

EXAMPLE = """cv3jax bench-serve --checkpoint scenes --rate 2 --num 100
  cv3jax bench-serve --url http://127.0.0.1:8000 --saturation --mix 4+1:3,4+1@64:1"""


def parser() -> Parser:
    """Return the parser of `cv3jax bench-serve`."""
    made = command_line.command("bench-serve", __doc__, EXAMPLE)
    made.add_argument("--url", metavar="URL", help="the address of a server that runs")
    command_line.add_checkpoint(
        made, "start a server of this checkpoint, and end it after the load", required=False
    )
    made.add_argument(
        "--size",
        metavar="H[xW],...",
        help="sizes that the started server draws, height first (default: the checkpoint's)",
    )
    made.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="the started server's images per device at a time (default: that of serve)",
    )
    made.add_argument(
        "--rate",
        type=float,
        metavar="R",
        help="requests per second of the Poisson process (default: 1)",
    )
    made.add_argument(
        "--saturation",
        action="store_true",
        help="in place of a rate, keep as many requests under way as --clients says",
    )
    made.add_argument(
        "--clients",
        type=int,
        metavar="N",
        help="requests under way at a time at saturation (default: four batches of the server)",
    )
    made.add_argument(
        "--num",
        type=int,
        default=100,
        metavar="N",
        help="requests, of one picture each (default: %(default)s)",
    )
    made.add_argument(
        "--mix",
        default="default:1",
        metavar="KIND:SHARE,...",
        help=(
            "kinds of requests and their shares: steps of base and relay, and a size (height first)"
            " where the server draws several, such as 4+1:3,20+10@128x64:1 (default: %(default)s,"
            " the checkpoint's steps)"
        ),
    )
    made.add_argument(
        "--warm-up",
        type=int,
        default=8,
        metavar="N",
        help="requests before those that are measured (default: %(default)s)",
    )
    made.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="of the arrivals, the mixture and the pictures (default: %(default)s)",
    )
    made.add_argument(
        "--timeout",
        type=float,
        default=600.0,
        metavar="S",
        help="seconds for one request (default: %(default)g)",
    )
    made.add_argument(
        "--api-key-env", metavar="NAME", help="environment variable with a key of the server"
    )
    add_json(made)
    return made


def check_flags(args: argparse.Namespace) -> None:
    """Raise InputError on a flag that is wrong whatever the server is."""
    if (args.url is None) == (args.checkpoint is None):
        raise InputError("give --url of a server that runs, or --checkpoint to start one")
    if args.url is not None:
        for name in ("size", "batch"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name} goes with --checkpoint")
        _check_url(args.url)
    least = {"clients": 1, "num": 1, "warm_up": 0, "seed": 0, "batch": 1}
    for name, low in least.items():
        value = getattr(args, name)
        if value is not None and not low <= value <= 1_000_000:
            raise InputError(f"--{name.replace('_', '-')} {value}: give {low}..1000000")
    if not (math.isfinite(args.timeout) and args.timeout > 0):
        raise InputError(f"--timeout {args.timeout:g}: give seconds above 0")
    if args.saturation and args.rate is not None:
        raise InputError("give --rate or --saturation")
    if args.clients is not None and not args.saturation:
        raise InputError("--clients goes with --saturation")
    if args.rate is not None and not 0 < args.rate <= 1e6:
        raise InputError(f"--rate {args.rate:g}: give requests per second")
    check_json(args.json)


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        fine = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        fine = False
    if not fine or parts.path.strip("/") or parts.query or "@" in parts.netloc:
        raise InputError(f"--url {url[:80]}: give a scheme, a host and a port alone")


def main(argv: list[str] | None = None) -> None:
    """Measure. Raises InputError on flags that cannot be, and where no server answers."""
    args = parser().parse_args(argv)
    check_flags(args)
    key = None if args.api_key_env is None else key_of("--api-key-env", args.api_key_env)
    extras.check("bench-serve", "httpx", "prometheus_client", extra="serve")

    from cv3jax.serving.load.arrivals import parse_mix

    kinds = parse_mix(args.mix)
    with reporting(args.json) as report, _server(args) as url:
        report(_measure(args, url, key, kinds))


@contextlib.contextmanager
def _server(args: argparse.Namespace) -> Iterator[str]:
    """Yield the address of the server, which is started here where only a checkpoint is given."""
    if args.url is not None:
        yield args.url.rstrip("/")
        return
    from cv3jax.serving.load.child import command, serving

    args.checkpoint = cascades.pinned(args.checkpoint)
    sizes_of(args, cascades.read_cascade(args.checkpoint)[1])
    with tempfile.TemporaryDirectory(prefix="cv3jax_serve_") as workdir:
        flags = ["--checkpoint", str(args.checkpoint), "--workdir", str(Path(workdir) / "serve")]
        for name in ("size", "batch"):
            if getattr(args, name) is not None:
                flags += [f"--{name}", str(getattr(args, name))]
        with contextlib.ExitStack() as stack:
            with waiting("starting the server"):
                child = stack.enter_context(serving(command(*flags)))
            yield child.address


def _measure(
    args: argparse.Namespace, url: str, key: str | None, kinds: list["Kind"]
) -> dict[str, Any]:
    """Put the load on the server, print its tables, and return the figures of `--json`."""
    from cv3jax.serving.load import report as load_report
    from cv3jax.serving.load.run import Load, measure

    rate = None if args.saturation else 1.0 if args.rate is None else args.rate
    load = Load(kinds, rate, args.num, args.clients, args.warm_up, args.seed)
    began = time.monotonic()
    with bar(args.num + args.warm_up, "requests", "request") as progress:
        figures = measure(url, load, key, args.timeout, progress.update)
    figures["seconds"]["total"] = round(time.monotonic() - began, 3)
    say(f"{url}: {args.num} requests in {figures['seconds']['load']:.1f} s")
    tell(load_report.text(figures))
    return figures
