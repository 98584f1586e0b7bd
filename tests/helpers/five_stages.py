"""Take the commands of docs/scale/five-stages.md, and make small inputs for them.

The page's first block names places and sizes. A rehearsal sets all of these variables itself, and
runs every other block as it stands, in bash.
"""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import subprocesses
from build_inputs import jpeg
from caption_answers import KEY, MODEL
from documents import read
from golden_models import files
from image_shards import tar
from tiny_runs import SMALLEST

PAGE = "docs/scale/five-stages.md"
SIDES = (200, 300, 600, 1100)  # of the shorter side, picture by picture
BLOCKED = "blocked.example"
ASSIGNED = re.compile(r"^(?:export )?(\w+)=", re.MULTILINE)
# beside SIZE=:tiny, so that a command is over in seconds
FIELDS = (
    *SMALLEST,
    "batch.size=2",
    "batch.per_device=2",
    "train.eval_every=4",
    "train.eval_records=2",
)
# of the distillations: one round each
ROUNDS = ("distill.rounds=((1,4,1e-3,1.0,4.0),)", "distill.w=(2.0,)")


def blocks() -> list[str]:
    """Return the page's blocks of shell commands, in their order."""
    return re.findall(r"^```sh\n(.*?)^```", read(PAGE), re.MULTILINE | re.DOTALL)


def variables(block: str) -> list[str]:
    """Return the names that a block assigns."""
    return ASSIGNED.findall(block)


def write_shards(folder: Path, numbers: range) -> None:
    """Write a tar of img2dataset for each twelve of the pictures `numbers`."""
    folder.mkdir(parents=True)
    for first in numbers[::12]:
        samples = []
        for i in numbers[numbers.index(first) :][:12]:
            side = SIDES[i % 4]
            host = BLOCKED if i % 12 == 11 else "photos.example"
            fields = {"url": f"http://{host}/{i}.jpg", "aesthetic": 4.0 + i % 5}
            fields |= {"punsafe": 0.01, "pwatermark": 0.1, "NSFW": "UNLIKELY"}
            samples += [
                (f"{i:06d}.jpg", jpeg(i, (side + 40, side))),
                (f"{i:06d}.txt", f"picture {i} of a red circle".encode()),
                (f"{i:06d}.json", json.dumps(fields).encode()),
            ]
        tar(folder / f"{first:05d}.tar", samples)


def write_inputs(root: Path) -> None:
    """Write what the page begins with: shards, released encoders, prompts."""
    write_shards(root / "shards" / "train", range(36))
    write_shards(root / "shards" / "held_out", range(100, 116))
    (root / "shards" / "blocked.txt").write_text(f"{BLOCKED}\n")
    weights = root / "weights"
    (weights / "metrics").mkdir(parents=True)
    (weights / "sdxl_vae.safetensors").symlink_to(files("micro") / "vae.safetensors")
    (weights / "t5-v1_1-xxl").symlink_to(files("micro") / "t5")
    (root / "prompts.txt").write_text("a red circle\na blue square and a green star\n")


def values(root: Path, endpoint: str) -> dict[str, str]:
    """Return what a rehearsal has in place of the page's first block, as bash writes it."""
    places = {name: root / name.lower() for name in ("SHARDS", "WEIGHTS", "DATA", "RUNS")}
    fields, rounds = (
        f"({' '.join(shlex.quote(f'--config.{field}') for field in given)})"
        for given in (FIELDS, ROUNDS)
    )
    return {
        **{name: shlex.quote(str(place)) for name, place in places.items()},
        "ENDPOINT": endpoint,
        "MODEL": MODEL,
        "PROMPTS": shlex.quote(str(root / "prompts.txt")),
        "METRICS": "named",
        "SIZE": ":tiny",
        "LAUNCH": "()",
        "FIELDS": fields,
        "ROUNDS": rounds,
        "JAX_COMPILATION_CACHE_DIR": subprocesses.environment()["JAX_COMPILATION_CACHE_DIR"],
    }


def rehearse(root: Path, script: str) -> subprocess.CompletedProcess:
    """Run a script of bash whose `cv3jax` is this checkout's."""
    environment = subprocesses.environment(OPENAI_API_KEY=KEY)
    program = root / "bin" / "cv3jax"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m cv3jax "$@"\n')
    program.chmod(0o755)
    return subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        env={**environment, "PATH": f"{program.parent}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=1500,
    )
