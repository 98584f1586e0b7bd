"""`cv3jax data <command>`: from captioned images of many kinds to records that training reads."""

import importlib
import sys

from data_pipeline.io import signals
from data_pipeline.io.address_space import DATA, check_room
from data_pipeline.io.arguments import nearest, run
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import check_json, reporting
from data_pipeline.io.terminal import tell

# Name → (module, summary). A module has `parser()` and `command(args)` → figures; args.more are the
# words that its parser leaves to another one. Only the module of the given command is imported, and
# it imports what does the work only after the flags are checked: Beam alone takes seconds.
COMMANDS = {
    "pack": ("data_pipeline.packing.command", "pack captioned images into records, on one machine"),
    "build": (
        "data_pipeline.builder.command",
        "filter and deduplicate shards of images into records, on one machine or many",
    ),
    "inspect": (
        "data_pipeline.records.inspect",
        "print a dataset's schema, counts and sizes, and draw a contact sheet",
    ),
    "recaption": (
        "data_pipeline.recaption.command",
        "write new captions with a vision model behind an OpenAI-compatible endpoint",
    ),
    "scenes": ("data_pipeline.scenes.command", "render captioned scenes of coloured shapes"),
}
# implemented in cv3jax.commands.encode, because it runs the models
ENCODE = "make latents and text features of a dataset, once for many epochs"


def main(argv: list[str] | None = None) -> None:
    """Run one subcommand; write its figures where --json says, and its progress to stderr.

    Raises:
        InputError: a flag or an input is unusable.
    """
    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] in (["-h"], ["--help"]):
        tell(usage())
        return
    if not argv or argv[0] not in COMMANDS:
        raise InputError(_no_command(argv))
    module = importlib.import_module(COMMANDS[argv[0]][0])
    args, args.more = module.parser().parse_known_args(argv[1:])
    check_json(args.json)
    check_room(DATA, "reading and writing records")
    with reporting(args.json) as report:
        report(module.command(args))


def _no_command(argv: list[str]) -> str:
    """Return the message for a first word that names no command."""
    names = [*COMMANDS, "encode"]
    if not argv:
        return f"no command after data; give one of {', '.join(names)}; see cv3jax data --help"
    close = nearest(argv[0], names)
    right = f"did you mean data {close}?" if close else f"give one of {', '.join(names)}"
    return (
        f"unknown command data {argv[0]!r}; {right}{' See' if close else '; see'} cv3jax data"
        " --help"
    )


def usage() -> str:
    """Return the overview of the data commands."""
    shown = {name: summary for name, (_, summary) in COMMANDS.items()} | {"encode": ENCODE}
    rows = "\n".join(f"  {name:<12}{summary}" for name, summary in shown.items())
    example = importlib.import_module(COMMANDS["pack"][0]).EXAMPLE
    return (
        f"usage: cv3jax data <command> [options]\n\ncommands:\n{rows}\n\n"
        f"example:\n  {example}\n\neach command has --help"
    )


if __name__ == "__main__":
    signals.install()
    run(main)
