"""`cv3jax <command>`: finds the command and runs it; what ends it becomes one line and a code."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable

from data_pipeline.io.exits import line_and_code, say, say_anything

COMMANDS = {
    "quickstart": (
        "cv3jax.commands.quickstart",
        "the whole system on one CPU: data, training, samples, report",
    ),
    "train": (
        "cv3jax.commands.train",
        "train one stage from a recipe; resumes where its workdir left off",
    ),
    "distill": ("cv3jax.commands.distill", "a trained stage in fewer steps, by rounds of halving"),
    "sample": ("cv3jax.commands.sample", "prompts to pictures with a trained cascade"),
    "compile": (
        "cv3jax.commands.compile",
        "a recipe's step for hardware that is not here: memory, FLOPs, collectives, roofline",
    ),
    "convert": (
        "cv3jax.commands.convert",
        "released PyTorch weights to a checkpoint, and trained weights back",
    ),
    "data": ("data_pipeline.cli", "pack, inspect and render training data"),
    "data encode": (
        "cv3jax.commands.encode",
        "latents and text features of a dataset, made once for many epochs",
    ),
}


def usage() -> str:
    rows = "\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())
    example = "cv3jax quickstart --workdir runs/quickstart"
    return (
        f"usage: cv3jax <command> [options]\n\ncommands:\n{rows}\n\nexample:\n  {example}\n\neach"
        " command has --help"
    )


def run_command(command: Callable, argv: list[str] | None = None) -> None:
    """Run `command(argv)`; what ends it becomes one line on stderr and an exit code.

    `data_pipeline.io.exits` has the table. Of many processes all end when one does.
    """
    from absl import logging

    from cv3jax.distributed import processes
    from cv3jax.distributed.backend import keep_compiled, prefer_cpu, size_pool, tune_cpu
    from data_pipeline.io.errors import StoppedError, first_line

    say_anything()
    tune_cpu()
    prefer_cpu()
    # orbax logs the traceback of an error that it raises as well
    logging.set_verbosity(logging.FATAL)
    sys.unraisablehook = _unraisable
    keep_compiled()
    stopped = 0
    try:
        try:
            size_pool()
            command(argv)
        except StoppedError as e:  # as are all processes
            line, stopped = line_and_code(e)
            say(line)
        processes.finish()
    except BrokenPipeError:  # whoever read the output has what they wanted
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        processes.leave("its output was closed", 1)
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as e:
        if ended := line_and_code(e):
            _end(*ended)
        if not processes.peers():
            raise
        processes.suspect(e)
        traceback.print_exc()
        processes.leave(f"{type(e).__name__}: {first_line(e)}", 1)
    if stopped:
        sys.exit(stopped)


def _end(line: str, code: int) -> None:
    from cv3jax.distributed import processes

    say(line)
    processes.leave(line, code)
    sys.exit(code)


def _unraisable(unraisable) -> None:
    """Python's own report of an error that nobody can catch, but for those of the event loop that a
    failed save leaves closed.
    """
    if not (
        isinstance(unraisable.exc_value, RuntimeError)
        and str(unraisable.exc_value) == "Event loop is closed"
    ):
        sys.__unraisablehook__(unraisable)


def main() -> None:
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0 if args else 2)
    if args[0] == "--version":
        from cv3jax import __version__

        print(f"cv3jax {__version__}")
        sys.exit(0)
    words = 2 if " ".join(args[:2]) in COMMANDS else 1
    name = " ".join(args[:words])
    if name not in COMMANDS:
        say(f"no command {name!r}; one of {', '.join(COMMANDS)}")
        sys.exit(2)
    command = importlib.import_module(COMMANDS[name][0]).main
    run_command(command, args[words:])


if __name__ == "__main__":
    main()
