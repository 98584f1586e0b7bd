"""The long commands at their smallest sizes: how each is started, and what it must leave."""

import hashlib
import io
import json
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import build_inputs
import encode_runs
import golden_models
import jax
import numpy as np
import tiny_runs
from caption_answers import KEY, MODEL, solid
from caption_server import CaptionServer
from states import leaves, untimed

from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades, runs
from cv3jax.training.metrics import read_lines
from data_pipeline.images.decode import encode_png
from data_pipeline.records.records import RecordWriter, make_record

PROMPTS = [f"a drawing of {i} things" for i in range(11)]
# fields of what commands write that depend on the clock, on the place or on how often they began
VARYING = ("second", "time", "date", "requests", "retries", "tokens", "cost", "goodput", "journal")
SMALL = ("mesh.data=1", "mesh.fsdp=1", "batch.per_device=8")


class Long(NamedTuple):
    """A long command.

    Attributes:
        argv: folder → the command lines of its processes.
        result: folder → name → digest, of what must be the same after interruptions.
        saves: whether a SIGTERM may end it with exit code 0.
        chain: how many interruptions a result has.
        first: whether it first runs once more, so that what is timed compiles nothing.
        environment: variables of its own.
    """

    argv: Callable[[Path], list[list[str]]]
    result: Callable[[Path], dict[str, str]]
    saves: bool = False
    chain: int = 3
    first: bool = True
    environment: Mapping[str, str] = MappingProxyType({})


def digest(value: Any) -> str:
    """Return the SHA-256 of an array, of bytes or of a JSON value."""
    if isinstance(value, np.ndarray):
        value = f"{value.dtype}{value.shape}".encode() + value.tobytes()
    data = value if isinstance(value, bytes) else json.dumps(value, sort_keys=True).encode()
    return hashlib.sha256(data).hexdigest()


def steady(value: Any) -> Any:
    """Return a JSON value without its VARYING fields."""
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if not any(word in k for word in VARYING)}
        return {key: steady(one) for key, one in kept.items()}
    return [steady(one) for one in value] if isinstance(value, list) else value


def cascade(folder: Path) -> dict[str, str]:
    """Return the digests of a cascade's description and of each array of its parts."""
    directory, description = cascades.read_cascade(folder)
    found = {"cascade.json": digest((directory / "cascade.json").read_bytes())}
    params = load_params(directory, description)[0]
    for path, leaf in jax.tree.flatten_with_path(params)[0]:
        found[jax.tree_util.keystr(path)] = digest(np.asarray(leaf))
    return found


def run(workdir: Path) -> dict[str, str]:
    """Return the digests of a run's last checkpoint, of its metrics and of its cascade."""
    [*_, step] = runs.steps(workdir / "checkpoints")
    state = {name: digest(value) for name, value in leaves(workdir, step).items()}
    lines = {"metrics": digest(untimed(read_lines(workdir / "metrics.jsonl")))}
    return {"step": str(step), **state, **lines, **cascade(workdir)}


def prefixed(found: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return the digests of several places under one."""
    return {f"{place} {name}": one for place, each in found.items() for name, one in each.items()}


def distilled(workdir: Path) -> dict[str, str]:
    """Return the digests of a distillation: rounds, cascade and what they cost."""
    rounds = sorted((workdir / "rounds").iterdir())
    found = {place.name: cascade(place / "cascade") for place in rounds}
    quality = json.loads((workdir / "quality.json").read_text())
    return {**prefixed({**found, "last": cascade(workdir)}), "quality": digest(steady(quality))}


def files(folder: Path) -> dict[str, str]:
    """Return the digests of a folder's files; of JSON without its VARYING fields."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_dir() or path.suffix == ".html":  # which shows the fields of a report.json
            continue
        data = path.read_bytes()
        value = steady(json.loads(data)) if path.suffix == ".json" else data
        found[str(path.relative_to(folder))] = digest(value)
    return found


def quickstart(folder: Path) -> dict[str, str]:
    """Return the digests of what a quickstart trained, and of its pictures."""
    stages = {name: run(folder / name) for name in ("vae", "base", "relay")}
    rounds = {name: distilled(folder / name) for name in ("distill_base", "distill_relay")}
    picture = digest((folder / "samples.png").read_bytes())
    return {**prefixed({**stages, **rounds}), "samples.png": picture}


def tars(folder: Path) -> Path:
    """Write two tars of 60 captioned pictures, some of them twice."""
    folder.mkdir(parents=True, exist_ok=True)
    for shard in range(2):
        with tarfile.open(folder / f"{shard:05d}.tar", "w") as tar:
            for i in range(30):
                for name, data in build_inputs.sample(30 * shard + i - (i % 10 == 9)):
                    member = tarfile.TarInfo(f"{i:03d}.{name.partition('.')[2]}")
                    member.size = len(data)
                    tar.addfile(member, io.BytesIO(data))
    return folder


def captioned(folder: Path) -> Path:
    """Write the records that are recaptioned; the server reads their number from the pictures."""
    with RecordWriter(folder, shards=2) as writer:
        for i in range(20):
            writer.write(make_record(encode_png(solid(i)), f"old {i}", key=f"k/{i}"))
    return folder


def converting(out: Path) -> list[str]:
    """Return the command line of a conversion of the golden weights."""
    folder = golden_models.files("micro")
    unet = str(folder / "unet.safetensors")
    return [
        *("convert", "--base", unet, "--relay", unet, "--vae", str(folder / "vae.safetensors")),
        *("--t5", str(folder / "t5"), "--head-channels", "16", "--image-size", "32"),
        *("--out", str(out)),
    ]


def sampling(out: Path, prompts: Path) -> list[list[str]]:
    """Return the command lines of the two processes that draw the pictures of `prompts`."""
    one = ["sample", "--checkpoint", str(golden_models.converted("micro")), "--prompts"]
    one += [str(prompts), "--out", str(out), "--size", "32", "--batch", "2", "--num-processes=2"]
    return [[*one, f"--process-id={i}"] for i in range(2)]


def encoding(out: Path) -> list[str]:
    """Return the command line of an encoding."""
    return [
        *("data", "encode", "--config=scenes_relay:tiny", "--input", str(encode_runs.data())),
        *("--checkpoint", str(tiny_runs.trained("base").workdir), "--out", str(out)),
        *("--batch", "2", "--latents", "float32", "--text", "float32"),
    ]


def training(workdir: Path, *more: str) -> list[str]:
    """Return the command line of a training of 16 steps."""
    fields = ("train.steps=16", "train.save_every=3", "train.log_every=2", *SMALL, *more)
    return ["train", *tiny_runs.argv("base", workdir, *fields)]


def distilling(workdir: Path) -> list[str]:
    """Return the command line of a distillation in two rounds."""
    rounds = f"distill.rounds={tiny_runs.rounds({2: 4, 1: 4})}"
    fields = (rounds, "train.save_every=1", "train.log_every=1", *SMALL)
    return ["distill", *tiny_runs.distill_argv("base", workdir, *fields)]


def long_commands(shared: Path, stack: ExitStack) -> Iterator[tuple[str, Callable[[], Long]]]:
    """Yield the name of each command and the function that makes its inputs below `shared`.

    What serves a command is entered into `stack`.
    """

    def build() -> Long:
        source = f"{tars(shared / 'tars')}/*.tar"
        flags = ["data", "build", "--input", source, "--shard-mb", "1"]
        return Long(lambda out: [[*flags, "--out", str(out / "d")]], lambda o: files(o / "d"))

    def recaption() -> Long:
        server = stack.enter_context(CaptionServer(latency=0.05))
        data, dialogue = captioned(shared / "captioned"), shared / "dialogue.json"
        turns = ["Describe it.", "Which colours?", "Merge {caption}."]
        dialogue.write_text(json.dumps({"turns": turns, "settings": {"temperature": 0}}))
        flags = ["--input", str(data), "--endpoint", server.url, "--model", MODEL]
        flags += ["--dialogue", str(dialogue), "--concurrency", "2"]
        return Long(
            lambda out: [["data", "recaption", *flags, "--out", str(out / "d")]],
            lambda out: files(out / "d"),
            environment={"OPENAI_API_KEY": KEY},
        )

    def sample() -> Long:
        prompts = shared / "prompts.txt"
        prompts.write_text("\n".join(PROMPTS))
        return Long(lambda out: sampling(out / "d", prompts), lambda out: files(out / "d"), True)

    yield "train", lambda: Long(lambda o: [training(o / "w")], lambda o: run(o / "w"), True)
    yield (
        "distill",
        lambda: Long(lambda o: [distilling(o / "w")], lambda o: distilled(o / "w"), True),
    )
    yield "data build", build
    yield "data encode", lambda: Long(lambda o: [encoding(o / "d")], lambda o: files(o / "d"))
    yield "data recaption", recaption
    yield "sample by two", sample
    yield "convert", lambda: Long(lambda o: [converting(o / "d")], lambda o: cascade(o / "d"))
    yield (
        "quickstart",
        lambda: Long(
            lambda o: [["quickstart", "--tiny", "--workdir", str(o / "w")]],
            lambda o: quickstart(o / "w"),
            chain=6,
            first=False,
        ),
    )
