"""Teach the packaged base of scenes a colour that no training picture had, by an adapter.

    python benchmarks/lora_scenes.py --json benchmarks/results/lora_scenes.json

The adapter of `scenes_lora` is trained on 200 pictures of 64² in each of which one object is teal.
Pictures of captions with the new word and of the old ones are drawn before and after, from the same
noise, and judged by pixels. Exits 1 if a bar is missed.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import measure
import numpy as np

from cv3jax.adapters import formats
from cv3jax.adapters.trees import to_tree
from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.distributed.backend import tune_cpu
from cv3jax.models.adapters import merged
from data_pipeline.io.files import write_json
from data_pipeline.scenes import grammar
from data_pipeline.scenes.judge import judge
from data_pipeline.scenes.vision import see

WORD, TEACHER, PICTURES = "teal", "scenes_teacher", 200
# share of new captions whose teal thing is there; by how much old captions may be less often right;
# seconds
BARS = {"word": 0.8, "old": 0.03, "seconds": 600}
SEED, AT_ONCE = 77, 50


def captions(count: int, new: str | None) -> list[str]:
    """Return the captions of scenes that are in no data set here, every second one textured."""
    return [
        grammar.caption(grammar.sample_scene(SEED, i, textured=float(i % 2), new=new))
        for i in range(count)
    ]


def drawn(cascade: Cascade, texts: list[str]) -> list[np.ndarray]:
    """Return the base's picture of each caption; that of number i has the seed i."""
    side, made = cascade.description.stages["base"].image_size, []
    for start in range(0, len(texts), AT_ONCE):
        rows = np.arange(start, start + AT_ONCE) % len(texts)
        keys = jax.vmap(jax.random.key)(jnp.asarray(rows))
        text = cascade.text([texts[i] for i in rows])
        latents = cascade.stage("base", text, keys, cascade.noise(keys, side))
        made += list(cascade.decode(latents))
    return made[: len(texts)]


def has_word(image: np.ndarray, text: str) -> bool:
    """Return whether the picture has a thing of the new colour, with the captioned shape."""
    wanted = {o["shape"] for o in grammar.parse(text)["objects"] if o["colour"] == WORD}
    found = [thing for thing in see(image, (WORD,)).things if thing.colour == WORD]
    return len(found) == 1 and found[0].shape in wanted


def shares(images: list[np.ndarray], texts: list[str]) -> dict[str, float]:
    """Return the share of pictures that are right, by property; `word` of captions that have it."""
    said = [judge(*pair, (WORD,)) for pair in zip(images, texts, strict=True)]
    found = {name: float(np.mean([one[name] for one in said])) for name in said[0]}
    if any(WORD in text for text in texts):
        word = [has_word(*pair) for pair in zip(images, texts, strict=True)]
        found["word"] = float(np.mean(word))
    return found


def command(*words: str) -> None:
    """Run a command of cv3jax."""
    subprocess.run([sys.executable, "-m", "cv3jax", *words], check=True)


def rows_of(figures: dict) -> list[tuple[str, str, str]]:
    """Return the rows of the table: what is right of captions with the new word, and of old."""
    named = {
        ("new", "word"): f"the new word, {WORD}, is there",
        ("new", "all"): "captions with the new word: all right",
        ("old", "all"): "old captions: all right",
    }
    return [
        (text, *(f"{figures[kind][when][name]:.3f}" for when in ("before", "after")))
        for (kind, name), text in named.items()
    ]


def main() -> None:
    """Train, draw, judge and report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="captions of each kind")
    parser.add_argument("--workdir", type=Path, help="where the run is kept (default: nowhere)")
    parser.add_argument("--json", type=Path)
    args, fields = parser.parse_known_args()
    tune_cpu()
    facts = measure.facts()
    with tempfile.TemporaryDirectory() as place:
        folder = args.workdir or Path(place)
        folder.mkdir(parents=True, exist_ok=True)
        data, run = folder / "pictures", folder / "run"
        shutil.rmtree(run, ignore_errors=True)
        if not data.exists():
            size = ("--size", "64", "--seed", "1", "--shards", "1")
            command(
                "data", "scenes", "--out", f"{data}", "--num", f"{PICTURES}", "--new", WORD, *size
            )
        began = time.perf_counter()
        where = ("--pictures", f"{data}", "--checkpoint", TEACHER, "--workdir", f"{run}")
        command("finetune", "--config=scenes_lora", *where, *fields)
        seconds = time.perf_counter() - began
        spent = resource.getrusage(resource.RUSAGE_CHILDREN)
        before = load(TEACHER)
        file = formats.read(run / "lora" / "adapter.safetensors")
    tree = to_tree(file, before.description.stages["base"])
    after = before.with_params("base", merged(before.params["base"], tree))
    kinds = {"new": captions(args.count, WORD), "old": captions(args.count, None)}
    figures = {
        kind: {
            when: shares(drawn(cascade, texts), texts)
            for when, cascade in (("before", before), ("after", after))
        }
        for kind, texts in kinds.items()
    }
    figures["cpu_seconds"] = spent.ru_utime + spent.ru_stime
    figures |= {"seconds": seconds, "count": args.count, "pictures": PICTURES, "fields": fields}
    lost = figures["old"]["before"]["all"] - figures["old"]["after"]["all"]
    missed = [
        name
        for name, fine in (
            ("word", figures["new"]["after"]["word"] >= BARS["word"]),
            ("old", lost <= BARS["old"]),
            ("seconds", seconds <= BARS["seconds"]),
        )
        if not fine
    ]
    print(json.dumps(facts, indent=2))
    print(measure.table(("captions", "before", "after"), rows_of(figures)))
    print(f"trained in {seconds:.0f} s, {figures['cpu_seconds']:.0f} s of CPU")
    write_json(args.json, {**facts, **figures})
    sys.exit(f"missed: {', '.join(missed)}" if missed else 0)


if __name__ == "__main__":
    main()
