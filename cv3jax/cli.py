"""`cv3jax <command>`: dispatch, and the one place where bad input becomes one line and exit code 2."""

import importlib
import sys
from collections.abc import Callable
from pathlib import Path

COMMANDS = {
    "quickstart": ("cv3jax.quickstart", "the whole system on one CPU: data, training, samples, report"),
    "train": ("cv3jax.train", "train one stage from a recipe; resumes where its workdir left off"),
    "sample": ("cv3jax.sample", "prompts to pictures with a trained cascade"),
    "data": ("data_pipeline.cli", "pack, inspect and render training data"),
}


def usage() -> str:
    rows = "\n".join(f"  {name:<12}{text}" for name, (_, text) in COMMANDS.items())
    example = "cv3jax quickstart --workdir runs/quickstart"
    return f"usage: cv3jax <command> [options]\n\ncommands:\n{rows}\n\nexample:\n  {example}\n\neach command has --help"


def run_command(command: Callable, argv: list[str] | None = None) -> None:
    """Run `command(argv)`; bad input ends in one line on stderr and exit 2, a stopped run in one line and exit 1."""
    import jax

    from cv3jax.loop import NonFiniteLossError
    from data_pipeline.errors import InputError

    if not jax.config.jax_compilation_cache_dir:  # a second start compiles nothing anew; JAX_COMPILATION_CACHE_DIR overrides
        jax.config.update("jax_compilation_cache_dir", str(Path.home() / ".cache" / "cv3jax" / "xla"))
    try:
        command(argv)
    except InputError as e:
        sys.exit(_say(e, 2))
    except NonFiniteLossError as e:
        sys.exit(_say(e, 1))
    except KeyboardInterrupt:
        sys.exit(_say("interrupted; run the same command to continue", 130))


def _say(message: object, code: int) -> int:
    print(f"cv3jax: {' '.join(str(message).split())}", file=sys.stderr)
    return code


def main() -> None:
    args = sys.argv[1:]
    if not args or args[0] in ("-h", "--help"):
        print(usage())
        sys.exit(0 if args else 2)
    if args[0] == "--version":
        from cv3jax import __version__

        print(f"cv3jax {__version__}")
        sys.exit(0)
    if args[0] not in COMMANDS:
        sys.exit(_say(f"no command {args[0]!r}; one of {', '.join(COMMANDS)}", 2))
    command = importlib.import_module(COMMANDS[args[0]][0]).main
    run_command(command, args[1:])


if __name__ == "__main__":
    main()
