"""`cv3jax serve` with the engine of squares, as a program: SQUARE_PAUSE seconds a step."""

import os

import square_engine

from cv3jax import cli
from cv3jax.commands import serve


def main() -> None:
    pause = float(os.environ.get("SQUARE_PAUSE", "0"))
    serve.open_engine = lambda args, sizes, loras: square_engine.SquareEngine(pause)
    cli.run_command(serve.main)


if __name__ == "__main__":
    main()
