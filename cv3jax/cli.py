"""`cv3jax <command>`: finds the command and runs it; what ends it becomes one line and a code."""

import importlib
import os
import sys
from collections.abc import Callable

from data_pipeline import cli as data
from data_pipeline.io import library_words
from data_pipeline.io.address_space import ANY, check_room
from data_pipeline.io.arguments import Parser, nearest
from data_pipeline.io.exits import close_output, line_and_code, printing, say, say_anything
from data_pipeline.io.terminal import tell

# Name → (module, summary). A command's module has `parser()`, which imports nothing that takes
# time, and `main(argv)`; those of `cv3jax data` are in data_pipeline/cli.py.
COMMANDS = {
    "sample": ("cv3jax.commands.sample", "draw pictures from prompts with a trained cascade"),
    "upscale": ("cv3jax.commands.upscale", "enlarge pictures of your own by a cascade's relay"),
    "serve": ("cv3jax.commands.serve", "draw for many users over HTTP, by OpenAI's images API"),
    "bench-serve": (
        "cv3jax.commands.bench_serve",
        "measure a server under load: throughput, latencies, occupancy",
    ),
    "judge-people serve": (
        "cv3jax.commands.judge_serve",
        "a page on which people judge pairs of pictures blindly",
    ),
    "judge-people analyse": (
        "cv3jax.commands.judge_analyse",
        "win rates, ratings, agreement and failed controls of votes",
    ),
    "judge-people plan": (
        "cv3jax.commands.judge_plan",
        "how many votes tell a win rate from one half",
    ),
    "judge-people export": (
        "cv3jax.commands.judge_export",
        "votes and their figures as CSV and HTML",
    ),
    "evaluate": (
        "cv3jax.commands.evaluate",
        "score pictures of a set of prompts, with intervals, and compare two reports",
    ),
    "ablate": (
        "cv3jax.commands.ablate",
        "draw, score and compare the variants of an ablation, by a recipe",
    ),
    "tables": (
        "cv3jax.commands.tables",
        "make the paper's tables of reports, its published figures beside",
    ),
    "quickstart": (
        "cv3jax.commands.quickstart",
        "run the whole system on one CPU: data, training, samples, report",
    ),
    "convert": (
        "cv3jax.commands.convert",
        "convert released PyTorch weights to a checkpoint, or trained weights back",
    ),
    "lora merge": ("cv3jax.commands.lora_merge", "a checkpoint with LoRA adapters in its weights"),
    "lora extract": (
        "cv3jax.commands.lora_extract",
        "a full fine-tune as a LoRA adapter, by singular values",
    ),
    "lora inspect": (
        "cv3jax.commands.lora_inspect",
        "what is in a LoRA file: format, ranks, norms, header",
    ),
    "lora compare": ("cv3jax.commands.lora_compare", "how alike two LoRA adapters are, by layer"),
    "lora convert": (
        "cv3jax.commands.lora_convert",
        "a LoRA file into kohya's, diffusers' or PEFT's format, or back",
    ),
    "train": ("cv3jax.commands.train", "train one stage from a recipe, or resume its run"),
    "finetune": (
        "cv3jax.commands.finetune",
        "teach a trained stage a style or a thing from pictures, by an adapter (LoRA)",
    ),
    "distill": (
        "cv3jax.commands.distill",
        "distil a trained stage into fewer steps, in rounds that halve them",
    ),
    "compile": (
        "cv3jax.commands.compile",
        "compile a step for TPUs or GPUs you don't have: memory, FLOPs, roofline",
    ),
    "plan": (
        "cv3jax.commands.plan",
        "what all stages cost on some hardware: chip-hours, days, money",
    ),
    "status": ("cv3jax.commands.status", "where runs are, how fast, and what they wait for"),
    "ema": ("cv3jax.commands.ema", "make an EMA of another length of a trained run"),
    "config": ("cv3jax.commands.config", "print a recipe's fields: value, type, range and meaning"),
    "data": ("data_pipeline.cli", "commands for datasets"),
    "data encode": ("cv3jax.commands.encode", data.ENCODE),
}
GROUPS = {
    "Draw": ("sample", "upscale", "serve", "bench-serve", "quickstart", "convert"),
    "Train": ("train", "finetune", "distill", "compile", "plan", "status", "ema", "config"),
    "Adapters": tuple(
        f"lora {name}" for name in ("merge", "extract", "inspect", "compare", "convert")
    ),
    "Evaluate": (
        *("evaluate", "ablate", "tables"),
        *(f"judge-people {name}" for name in ("serve", "analyse", "plan", "export")),
    ),
    "Prepare data": (*(f"data {name}" for name in data.COMMANDS), "data encode"),
}
EXAMPLE = """cv3jax sample --checkpoint scenes --out runs/star \\
      --prompt "a small green star on the left and a large purple circle on the right, black \
background\""""
COMPLETION = 'eval "$(register-python-argcomplete cv3jax)"'


def modules() -> dict[str, tuple[str, str]]:
    """Return all commands, those of `cv3jax data` included: name → (module, summary)."""
    return {
        **{name: row for name, row in COMMANDS.items() if name != "data"},
        **{f"data {name}": row for name, row in data.COMMANDS.items()},
    }


def parser_of(name: str) -> Parser:
    """Return the parser of a command, such as "train" or "data pack". Imports no JAX."""
    return importlib.import_module(modules()[name][0]).parser()


def usage() -> str:
    """Return the overview of all commands, and first an example that takes half a minute."""
    known = modules()
    groups = "\n\n".join(
        f"{title}:\n" + "\n".join(f"  {name:<22}{known[name][1]}" for name in names)
        for title, names in GROUPS.items()
    )
    return (
        "usage: cv3jax <command> [options]\n\nexample, which takes half a minute on two CPU"
        f" cores:\n  {EXAMPLE}\n\n{groups}\n\nEach command has --help, with its flags and an"
        " example. Flags may be written with\nunderscores. --json FILE writes a command's figures;"
        " --json - prints them and nothing else.\n\nCompletion by Tab in bash and zsh:"
        f" {COMPLETION}"
    )


def run_command(command: Callable, argv: list[str] | None = None) -> None:
    """Run `command(argv)`; what ends it becomes one line on stderr and an exit code.

    `data_pipeline.io.exits` has the table. Of many processes all end when one does.
    """
    from cv3jax.distributed import processes
    from cv3jax.distributed.backend import (
        keep_compiled,
        prefer_cpu,
        quiet_libraries,
        size_pool,
        tune_cpu,
    )
    from data_pipeline.io.errors import StoppedError, first_line

    say_anything()
    library_words.make_visible()
    quiet_libraries()
    tune_cpu()
    prefer_cpu()
    sys.unraisablehook = _unraisable
    stopped = 0
    try:
        try:
            keep_compiled()
            size_pool()
            command(argv)
        except StoppedError as e:  # as are all processes
            line, stopped = line_and_code(e)
            say(line)
        processes.finish()
    except BrokenPipeError:  # whoever read the output has what they wanted
        close_output()
        processes.leave("its output was closed", 1)
        sys.exit(1)
    except (Exception, KeyboardInterrupt) as e:
        if ended := line_and_code(e):
            _end(*ended)
        if not processes.peers():
            raise
        processes.suspect(e)
        sys.excepthook(*sys.exc_info())
        processes.leave(f"{type(e).__name__}: {first_line(e)}", 1)
    if stopped:
        sys.exit(stopped)


def _end(line: str, code: int) -> None:
    from cv3jax.distributed import processes

    say(line)
    processes.leave(line, code)
    sys.exit(code)


def _unraisable(unraisable) -> None:
    """Report an error that nobody can catch, as Python does, unless it is a closed event loop.

    A failed save leaves one closed.
    """
    if not (
        isinstance(unraisable.exc_value, RuntimeError)
        and str(unraisable.exc_value) == "Event loop is closed"
    ):
        sys.__unraisablehook__(unraisable)


def main() -> None:
    """Run the command line of this process, and exit."""
    if "_ARGCOMPLETE" in os.environ:
        importlib.import_module("cv3jax.commands.completion").complete()
        return
    with printing():
        _run(sys.argv[1:])


def _run(args: list[str]) -> None:
    if not args or args[0] in ("-h", "--help"):
        tell(usage())
        sys.exit(0 if args else 2)
    if args[0] == "--version":
        from cv3jax import __version__

        tell(f"cv3jax {__version__}")
        sys.exit(0)
    words = 2 if " ".join(args[:2]) in COMMANDS else 1
    name = " ".join(args[:words])
    within = [one.removeprefix(f"{name} ") for one in COMMANDS if one.startswith(f"{name} ")]
    if name not in COMMANDS and within:
        asked = {*args[1:]} & {"-h", "--help"}
        (tell if asked else say)(f"cv3jax {name} takes {', '.join(within)}; see cv3jax --help")
        sys.exit(0 if asked else 2)
    if name not in COMMANDS:
        close = nearest(name, [*COMMANDS, "--help", "--version"])
        right = f"did you mean {close}? See" if close else "see"
        say(f"unknown command {name!r}; {right} cv3jax --help")
        sys.exit(2)

    def command(argv: list[str]) -> None:
        check_room(ANY, f"cv3jax {name}")
        importlib.import_module(COMMANDS[name][0]).main(argv)

    run_command(command, args[words:])  # which also catches what an import raises
