"""Run cv3jax commands in processes that are forked from one with the libraries imported.

Each command has a process of its own, its own devices and its own compilations, as with
`python -m cv3jax`. Only the seconds of the imports are saved, in each of them.

    python forked_commands.py SOCKET          # the process that imports, until it is ended
    python forked_commands.py SOCKET ARGS...  # `cv3jax ARGS`
"""

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LARGEST = 1 << 16  # bytes of a command's arguments
IMPORTED = (
    "cv3jax.training.run",
    "cv3jax.training.build",
    "cv3jax.distillation.run",
    "cv3jax.cascade.pipeline",
    "cv3jax.sampling.batches",
    "cv3jax.weights.convert",
)


@contextlib.contextmanager
def forked_commands(folder: Path, environment: dict[str, str]) -> Iterator[Path]:
    """Yield a program that runs `cv3jax` with the arguments it is given."""
    place, program = folder / "socket", folder / "cv3jax"
    folder.mkdir(parents=True)
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "{__file__}" "{place}" "$@"\n')
    program.chmod(0o755)
    # its streams are pipes, because those of its children are: Python would seek in files
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    server = subprocess.Popen([sys.executable, __file__, str(place)], env=environment, **streams)
    try:
        while not place.exists():
            assert server.poll() is None, "the process that imports has ended"
            time.sleep(0.05)
        yield program
    finally:
        server.terminate()
        server.communicate()


def serve(place: str) -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{place}.new")
        listening.listen()
        os.rename(f"{place}.new", place)
        while True:
            asked, _ = listening.accept()
            with asked:
                given, descriptors, _, _ = socket.recv_fds(asked, LARGEST, 3)
                child = os.fork()
                if child == 0:
                    for number, descriptor in enumerate(descriptors):
                        os.dup2(descriptor, number)
                        os.close(descriptor)
                    cwd, *arguments = json.loads(given)
                    os.chdir(cwd)
                    sys.argv = ["cv3jax", *arguments]
                    from cv3jax.__main__ import main

                    return main()
                for descriptor in descriptors:
                    os.close(descriptor)
                code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
                asked.sendall(str(code % 256).encode())


def ask(place: str, arguments: list[str]) -> int:
    with socket.socket(socket.AF_UNIX) as asked:
        asked.connect(place)
        socket.send_fds(asked, [json.dumps([os.getcwd(), *arguments]).encode()], [0, 1, 2])
        return int(asked.recv(16))


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(ask(sys.argv[1], sys.argv[2:]))
