"""`cv3jax serve` that notes each picture that its engine has drawn, for serve_soak.py.

SOAK_DRAWN is the file: a line "process order" for each. With SOAK_PAUSE, the engine draws coloured
squares without a model, with so many seconds a step.
"""

import os
import sys
from collections import deque
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "helpers"))

from cv3jax import cli
from cv3jax.commands import serve
from cv3jax.serving.orders import Drawn, Engine, Event, Listener, Order


def noting(engine: Engine, path: str) -> Engine:
    """Return the engine, which from now on writes the id of each drawn order to a file."""
    # one write of a short line to a file that is only appended to is whole, also at a kill
    file, submit = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), engine.submit

    def submit_noted(order: Order, listener: Listener) -> None:
        def heard(event: Event) -> None:
            if isinstance(event, Drawn) and event.last:
                os.write(file, f"{os.getpid()} {order.id}\n".encode())
            listener(event)

        submit(order, heard)

    engine.submit = submit_noted
    return engine


def main() -> None:
    """Serve."""
    opened, pause = serve.open_engine, os.environ.get("SOAK_PAUSE")

    def open_noting(args, sizes) -> Engine:
        if pause is None:
            return noting(opened(args, sizes), os.environ["SOAK_DRAWN"])
        from square_engine import SquareEngine

        squares = SquareEngine(float(pause))
        # what tests ask it, which would grow with each order
        squares.drawn, squares.submitted = deque(maxlen=1), deque(maxlen=1)
        return noting(squares, os.environ["SOAK_DRAWN"])

    serve.open_engine = open_noting
    cli.run_command(serve.main)


if __name__ == "__main__":
    main()
