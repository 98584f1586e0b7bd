"""Run `cv3jax serve` in a process of its own, by default with the engine of squares."""

import json
import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Sequence
from pathlib import Path

import subprocesses

HELPERS = Path(__file__).parent
SQUARES = (str(HELPERS / "square_server.py"),)


class Process:
    """A server; `program` is what Python runs, and `pause` the seconds of a square's step."""

    def __init__(
        self, data: Path, *flags: str, pause: float = 0.05, program: Sequence[str] = SQUARES
    ):
        argv = [sys.executable, *program, "--checkpoint", "scenes"]
        path = os.pathsep.join([str(HELPERS), *sys.path])
        environment = subprocesses.environment(PYTHONPATH=path, SQUARE_PAUSE=str(pause))
        self.process = subprocess.Popen(
            [*argv, "--port", "0", "--workdir", str(data), *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.address = self.until(r"ready at (http\S+)")[1]

    def until(self, pattern: str) -> re.Match:
        """Return the match of the first line on stderr that has the pattern."""
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(pattern, line):
                return found
        raise AssertionError(f"no {pattern!r} in {self.said}")

    def ask(self, path: str, body: dict | None = None) -> dict:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.address + path, data, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())

    def end(self, number: int) -> tuple[int, str]:
        """Return (the exit code, what it said on stderr) after a signal."""
        self.process.send_signal(number)
        _, said = self.process.communicate(timeout=60)
        return self.process.returncode, "".join(self.said) + said
