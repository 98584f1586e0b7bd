"""Folders of small pictures of two or more models, and a process that has them judged."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

# as `cv3jax judge-people serve`, without the second in which that imports JAX to set it up
PROGRAM = "import sys; from cv3jax.commands.judge_serve import main; main(sys.argv[1:])"
WORDS = ("star", "circle", "square", "tree", "boat", "moon", "house", "fish")


def drawn(place: Path, prompts: int, models: str = "ab", side: int = 32) -> list[str]:
    """Make a folder of each model and a file of prompts; return the flags that give them.

    Each picture has the colour of its model, and metadata that name it.
    """
    rng = np.random.default_rng(0)
    for number, model in enumerate(models):
        (place / f"model_{model}").mkdir(parents=True)
        for i in range(prompts):
            image = rng.integers(0, 80, (side, side, 3), np.uint8)
            image[..., number % 3] += 160
            about = PngImagePlugin.PngInfo()
            about.add_text("parameters", f"model_{model}")
            Image.fromarray(image).save(place / f"model_{model}" / f"{i:03}.png", pnginfo=about)
    texts = [f"a {WORDS[i % len(WORDS)]}, number {i}" for i in range(prompts)]
    (place / "prompts.txt").write_text("\n".join(texts) + "\n")
    folders = [word for m in models for word in (f"--{m}", str(place / f"model_{m}"))]
    return [*folders, "--prompts", str(place / "prompts.txt")]


def model_of(data: bytes) -> int:
    """Return the number of the model that drew a picture, by its colour."""
    image = np.asarray(Image.open(io.BytesIO(data)))
    return int(image.reshape(-1, 3).mean(0).argmax())


class Judged:
    """A process of `cv3jax judge-people serve`."""

    def __init__(self, flags: list[str], votes: Path, *more: str):
        argv = [sys.executable, "-c", PROGRAM, *flags, "--votes", str(votes), *more]
        argv += [] if "--port" in more else ["--port", "0"]
        self.process = subprocess.Popen(
            argv,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.said: list[str] = []
        self.address = ""
        for line in self.process.stderr:
            self.said.append(line)
            if found := re.search(r"ready at (http\S+)", line):
                self.address = found[1]
                return
        raise AssertionError(f"never ready: {self.said}")

    @property
    def port(self) -> str:
        return self.address.rpartition(":")[2]

    def kill(self) -> None:
        """End the process as a power failure would."""
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()

    def end(self) -> int:
        """End the process as an operator would; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        self.process.communicate(timeout=60)
        return self.process.returncode

    def get(self, path: str) -> bytes:
        with urllib.request.urlopen(self.address + path, timeout=60) as answer:
            return answer.read()

    def state(self, token: str) -> dict[str, Any]:
        return json.loads(self.get(f"/api/{token}/state"))

    def post(self, path: str, value: Any) -> tuple[int, dict[str, Any]]:
        """Return (the status, the JSON of the answer)."""
        request = urllib.request.Request(
            self.address + path, json.dumps(value).encode(), {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.loads(answer.read())
        except urllib.error.HTTPError as e:
            return e.code, json.loads(e.read())

    def enter(self, name: str) -> str:
        return self.post("/api/rater", {"name": name})[1]["token"]
