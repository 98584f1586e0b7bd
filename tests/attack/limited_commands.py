"""The long commands on the smallest inputs, and what each of them has made, as a hash.

The limits of the machine (resources.py) are tried on them. Inputs are made once for all tries.
"""

import functools
import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import encode_runs
import golden_models
import numpy as np
import tiny_runs
from build_inputs import sample
from caption_answers import KEY, MODEL, solid
from caption_server import CaptionServer
from shared import once, root
from states import untimed

from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.streaming import walk
from cv3jax.training.metrics import read_lines
from data_pipeline.images.decode import encode_png
from data_pipeline.records.records import RecordWriter, make_record, open_records

RUN = ("mesh.data=1", "mesh.fsdp=1", "batch.per_device=8", "optim.kind=adamw")
COUNT = 12  # records that are built and recaptioned


class Command(NamedTuple):
    """A command that writes `out`, and `made`, which returns a hash of what it wrote there.

    serves: it does not end by itself; it is up when it says so, and is then asked to end.
    """

    argv: Callable[[Path], list[str]]
    made: Callable[[Path], str]
    serves: bool = False


def hashed(values: Iterable[Any]) -> str:
    """Return the SHA-256 of arrays, bytes and other values, in their order."""
    found = hashlib.sha256()
    for value in values:
        if isinstance(value, np.ndarray):
            found.update(f"{value.dtype}{value.shape}".encode() + value.tobytes())
        else:
            found.update(value if isinstance(value, bytes) else repr(value).encode())
    return found.hexdigest()


def _cascade(folder: Path) -> str:
    directory, description = cascades.read_cascade(folder)
    params, _ = load_params(directory, description)
    return hashed([json.dumps(description.to_json()), *(np.asarray(x) for _, x in walk(params))])


def _run(workdir: Path) -> str:
    curves = [untimed(read_lines(file)) for file in sorted(workdir.rglob("metrics.jsonl"))]
    return hashed([_cascade(workdir), curves])


def _records(folder: Path) -> str:
    source = open_records(folder)
    return hashed(sorted(source[i].items()) for i in range(len(source)))


def _files(folder: Path) -> str:
    return hashed(sorted(encode_runs.contents(folder).items()))


def _pictures(folder: Path) -> str:
    return hashed((path.name, path.read_bytes()) for path in sorted(folder.rglob("*.png")))


def _train(out: Path) -> list[str]:
    steps = ("train.steps=4", "train.save_every=2", "train.preview_every=0")
    return ["train", *tiny_runs.argv("vae", out, *steps, *RUN)]


def _distill(out: Path) -> list[str]:
    rounds = f"distill.rounds={tiny_runs.rounds({2: 2, 1: 2})}"
    return ["distill", *tiny_runs.distill_argv("base", out, rounds, *RUN)]


@functools.cache
def _tars() -> Path:
    """Write two tars of a few pictures, and return their folder."""
    folder = root() / "limited_tars"
    with once("limited_tars") as missing:
        if missing:
            folder.mkdir()
            for number in range(2):
                with tarfile.open(folder / f"{number}.tar", "w") as tar:
                    for i in range(number * COUNT, (number + 1) * COUNT):
                        for name, data in sample(i):
                            member = tarfile.TarInfo(name)
                            member.size = len(data)
                            tar.addfile(member, io.BytesIO(data))
    return folder


def _build(out: Path) -> list[str]:
    return ["data", "build", "--input", f"{_tars()}/*.tar", "--out", str(out)]


def _encode(out: Path) -> list[str]:
    flags = {
        "--config": "scenes_relay:tiny",
        "--input": encode_runs.data(),
        "--checkpoint": tiny_runs.trained("base").workdir,
        "--batch": encode_runs.BATCH,
        "--out": out,
    }
    return ["data", "encode", *(f"{name}={value}" for name, value in flags.items())]


@functools.cache
def _coloured() -> Path:
    """Write records whose pictures tell the server of captions their number."""
    with once("limited_coloured") as missing:
        if missing:
            with RecordWriter(root() / "limited_coloured", shards=2) as writer:
                for i in range(COUNT):
                    writer.write(make_record(encode_png(solid(i)), f"old {i}", key=f"k/{i}"))
    return root() / "limited_coloured"


@functools.cache
def _endpoint() -> str:
    """Return the address of a server of captions, which serves as long as this process lives."""
    return CaptionServer().__enter__().url


def _recaption(out: Path) -> list[str]:
    dialogue = root() / "limited_dialogue.json"
    with once("limited_dialogue") as missing:
        if missing:
            settings = {"temperature": 0, "seed": 3}
            turns = ["Describe it.", "Merge {caption}."]
            dialogue.write_text(json.dumps({"turns": turns, "settings": settings, "triplet": "x"}))
    flags = {
        "--input": _coloured(),
        "--endpoint": _endpoint(),
        "--model": MODEL,
        "--dialogue": dialogue,
        "--concurrency": 4,
        "--out": out,
    }
    return ["data", "recaption", *(f"{name}={value}" for name, value in flags.items())]


def _sample(out: Path) -> list[str]:
    prompts = root() / "limited_prompts.txt"
    with once("limited_prompts") as missing:
        if missing:
            prompts.write_text("a small red star\na large blue ring\na green circle\n")
    flags = {
        "--checkpoint": tiny_runs.trained("relay").workdir,
        "--prompts": prompts,
        "--steps": "2,2",
        "--batch": 1,
        "--out": out,
    }
    return ["sample", *(f"{name}={value}" for name, value in flags.items())]


def _convert(out: Path) -> list[str]:
    files = golden_models.files("micro")
    unet = files / "unet.safetensors"
    parts = {"--base": unet, "--relay": unet, "--vae": files / "vae.safetensors"}
    sizes = {"--t5": files / "t5", "--head-channels": 16, "--image-size": 32}
    flags = {**parts, **sizes, "--out": out}
    return ["convert", *(f"{name}={value}" for name, value in flags.items())]


def _quickstart(out: Path) -> list[str]:
    return ["quickstart", "--tiny", "--workdir", str(out)]


def _quickstart_made(out: Path) -> str:
    return hashed(_run(folder.parent) for folder in sorted(out.glob("*/cascade")))


def _serve(out: Path) -> list[str]:
    checkpoint = tiny_runs.trained("relay").workdir
    flags = {"--checkpoint": checkpoint, "--port": 0, "--batch": 1, "--workdir": out}
    return ["serve", *(f"{name}={value}" for name, value in flags.items())]


def commands() -> dict[str, Command]:
    """Return the commands by name."""
    return {
        "train": Command(_train, _run),
        "distill": Command(_distill, _run),
        "data build": Command(_build, _records),
        "data recaption": Command(_recaption, _records),
        "data encode": Command(_encode, _files),
        "sample --prompts": Command(_sample, _pictures),
        "convert": Command(_convert, _cascade),
        "serve": Command(_serve, lambda out: "", serves=True),
        "quickstart": Command(_quickstart, _quickstart_made),
    }


def variables() -> dict[str, str]:
    """Return the variables of the environment that the commands need."""
    return {"OPENAI_API_KEY": KEY}
