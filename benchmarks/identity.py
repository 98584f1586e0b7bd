"""Check that two checkouts write identical files.

    python benchmarks/identity.py --before ../before --after .

Every kind of run is made by the commands of both checkouts with tiny recipes. Everything that they
write is compared bit by bit: the parameters of every part of a cascade, every array of every
checkpoint (also optimizer moments and EMA), every record, picture and line of metrics, and all
other files. Not compared are times, TensorBoard's events (which contain times), the random file
names of orbax and hashes of them, and the order of names in JSON. Each checkout is installed in an
environment of its own (`make setup`), with the same versions. Both use the same devices and XLA
flags, but share no compiled programs. Exits 1 on any difference. Nearly all of the time goes into
compilation.
"""

import argparse
import collections
import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import measure
import numpy as np
import orbax.checkpoint as ocp
import planted
from array_record.python.array_record_module import ArrayRecordReader

CODE = ("cv3jax", "cv3jax.configs", "data_pipeline")
PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "pillow")
TREE = "_METADATA"  # where orbax keeps the names of a tree's arrays
# of a tree: what is inside it, what has times in it, what names files that orbax draws names for
LEFT_OUT = ("manifest.json", "commit_success.txt", "_CHECKPOINT_METADATA", ".lock", "tensorboard")
MAIN = "from cv3jax.cli import main; main()"  # older checkouts know it, and old flags
PRINTED = "printed.json"  # what a command says with --json, in the folder that it makes
TIMED = ("seconds", "goodput", "data_wait", "account")
# of a feature cache, which encoders made it: a hash of the names that orbax draws, too
HASHED = ("vae", "t5")
COLUMNS = ("arrays", "records", "pictures", "lines", "others")
PROMPTS = ("a large red circle, white background", "a small green star, black background")
ROUND = "distill.rounds=((1,2,1e-3,1.0,4.0),)"


@dataclasses.dataclass(frozen=True)
class Side:
    """Describe a checkout, the Python that it is installed for, and the folder of its runs.

    Some files contain paths. So the folder is called `here` during a run, for both sides.
    """

    name: str
    checkout: Path
    python: Path
    folder: Path
    here: Path
    devices: int

    def call(self, *words: str) -> str:
        """Return what the side's Python prints; raise RuntimeError if it fails."""
        fixed = {
            "PYTHONPATH": str(self.checkout),
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(self.devices),
            "JAX_COMPILATION_CACHE_DIR": f"{self.folder}_compiled",
        }
        self.folder.rename(self.here)
        try:
            done = subprocess.run(
                [str(self.python), *words],
                cwd=self.here,
                env={**os.environ, **fixed},
                capture_output=True,
                text=True,
            )
        finally:
            self.here.rename(self.folder)
        if done.returncode:
            raise RuntimeError(f"{self.name}: {' '.join(words)}: {done.stderr[-2000:]}")
        return done.stdout

    def facts(self) -> dict[str, Any]:
        """Return revision and versions; raise RuntimeError if other code is imported."""
        code = (
            "import importlib.metadata as m, importlib.util as u, json, sys;"
            f"print(json.dumps([[u.find_spec(n).origin for n in {CODE}],"
            f" {{n: m.version(n) for n in {PACKAGES}}}]))"
        )
        found, versions = json.loads(self.call("-c", code))
        for path in found:
            if not Path(path).is_relative_to(self.checkout):
                raise RuntimeError(f"{self.name}: {self.python} has {path}, not {self.checkout}'s")
        return {"revision": measure.revision(self.checkout) or "none", **versions}


def train(stage: str, data: str, *fields: str) -> list[str]:
    """Return the arguments of the train command for the tiny recipe of `stage`."""
    fields = ("train.steps=3", "train.log_every=1", f"data.path={data}", *fields)
    return [
        "train",
        f"--config=scenes_{stage}:tiny",
        f"--workdir={stage}",
        *(f"--config.{field}" for field in fields),
    ]


def distill(stage: str, cascade: str, *fields: str) -> list[str]:
    """Return the arguments of the distill command for the tiny recipe of `stage`."""
    fields = ("data.path=scenes", f"cascade={cascade}", "optim.kind=adamw", *fields)
    return [
        "distill",
        f"--config=scenes_distill_{stage}:tiny",
        f"--workdir=distilled_{stage}",
        *(f"--config.{field}" for field in fields),
    ]


def sample(checkpoint: str, out: str) -> list[str]:
    """Return the arguments of the sample command."""
    prompts = [word for prompt in PROMPTS for word in ("--prompt", prompt)]
    return ["sample", "--checkpoint", checkpoint, *prompts, "--num=2", f"--out={out}"]


def kinds(tars: Path) -> dict[str, list[str]]:
    """Return the arguments of every command by the folder that it writes, in order."""
    scenes = "data scenes --num 16 --size 64 --shards 2 --seed 3 --out scenes"
    build = f"data build --input {tars}/*.tar --blocked-sources {tars}/blocked.txt --output built"
    encode = "data encode --config=scenes_relay:tiny --data scenes --cascade base --out encoded"
    convert = "convert --checkpoint relay --to diffusers --parts base,relay,t5 --out exported"
    return {
        "scenes": scenes.split(),
        "packed": f"data pack --source {tars} --shards 2 --out packed".split(),
        "built": [*build.split(), "--max-bad-fraction=0.2"],
        "vae": train("vae", "scenes:3,packed:1"),  # whose optimizer is muon
        "base": train("base", "scenes", "cascade=vae", "train.preview_every=3", "optim.kind=adamw"),
        "relay": train("relay", "scenes", "cascade=base", "init_from=base", "optim.kind=adafactor"),
        "encoded": encode.split(),
        "pictures": sample("relay", "pictures"),
        "exported": convert.split(),
        "distilled_base": distill("base", "relay"),
        "distilled_relay": distill("relay", "distilled_base", ROUND),
        "distilled_pictures": sample("distilled_relay", "distilled_pictures"),
    }


def entries(folder: Path) -> Iterator[Path]:
    """Yield what is compared below `folder`: files, and orbax trees as one entry each."""
    for path in sorted(folder.iterdir()):
        if path.name not in LEFT_OUT:
            if path.is_dir() and not (path / TREE).exists():
                yield from entries(path)
            else:
                yield path


def contents(path: Path) -> tuple[str, dict[str, Any]]:
    """Return the column in which an entry counts, and its values by name."""
    if path.is_dir():
        with ocp.StandardCheckpointer() as checkpointer:
            leaves = jax.tree.leaves_with_path(checkpointer.restore(path.absolute()))
        tokenizer = path / "tokenizer"  # of a text encoder, in its folder
        beside = tokenizer.glob("*") if tokenizer.is_dir() else ()
        return "arrays", {
            **{jax.tree_util.keystr(name): exact(leaf) for name, leaf in leaves},
            **{file.name: file.read_bytes() for file in beside},
        }
    if ".array_record-" in path.name:
        reader = ArrayRecordReader(str(path))
        records = reader.read_all() if reader.num_records() else []
        reader.close()
        return "records", {f"record {i}": record for i, record in enumerate(records)}
    if path.suffix == ".npz":
        with np.load(path) as arrays:
            return "arrays", {name: exact(arrays[name]) for name in arrays.files}
    if path.suffix == ".jsonl":
        lines = enumerate(path.read_text().splitlines(), 1)
        return "lines", {f"line {i}": untimed(json.loads(line)) for i, line in lines}
    if path.suffix == ".json" or path.name == "metadata":
        return "others", {"content": untimed(json.loads(path.read_text()))}
    return "pictures" if path.suffix == ".png" else "others", {"content": path.read_bytes()}


def exact(leaf: Any) -> tuple[str, tuple[int, ...], bytes]:
    """Return dtype, shape and bytes of an array; of a random key, those of its data."""
    if isinstance(leaf, jax.Array) and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return str(array.dtype), array.shape, array.tobytes()


def untimed(value: Any) -> Any:
    """Return JSON as text (where 0.0 is not -0.0) without fields that differ from run to run."""

    def without(value: Any) -> Any:
        if isinstance(value, list):
            return [without(item) for item in value]
        if not isinstance(value, dict):
            return value
        return {
            name: without(item)
            for name, item in value.items()
            if not name.startswith(TIMED)
            and not name.endswith(("_seconds", "_per_second"))
            and not (name in HASHED and isinstance(item, str))
        }

    return json.dumps(without(value), sort_keys=True)


def compared(before: Path, after: Path) -> tuple[collections.Counter[str], str]:
    """Return counts by column of two folders' entries, and their first difference, if any."""
    ours, theirs = (
        {str(path.relative_to(folder)): path for path in entries(folder)}
        for folder in (after, before)
    )
    counts: collections.Counter[str] = collections.Counter()
    first = unequal_names(theirs, ours)
    for name in sorted(ours.keys() & theirs.keys()):
        (column, new), (_, old) = contents(ours[name]), contents(theirs[name])
        counts[column] += len(new)
        if difference := unequal_names(old, new) or next(
            (f"{key} differs" for key in new if old[key] != new[key]), ""
        ):
            first = first or f"{name}: {difference}"
    return counts, first


def unequal_names(before: dict, after: dict) -> str:
    """Return a sentence on the first name that only one of both has, if any."""
    if lost := sorted(before.keys() - after.keys(), key=str):
        return f"{lost[0]} is not there after"
    if more := sorted(after.keys() - before.keys(), key=str):
        return f"{more[0]} was not there before"
    return ""


def measured(before: Side, after: Side, tars: Path) -> list[dict[str, Any]]:
    """Return a row for each kind of run."""
    rows = []
    for folder, words in kinds(tars).items():
        for side in (before, after):
            if not (side.folder / folder / PRINTED).exists():
                side.call("-c", MAIN, *words, f"--json={folder}/{PRINTED}")
        counts, difference = compared(before.folder / folder, after.folder / folder)
        command = " ".join(word for word in words[:2] if not word.startswith("--"))
        row = {"kind": f"{command} → {folder}", **{name: counts[name] for name in COLUMNS}}
        rows.append({**row, "result": difference or "identical"})
        print(f"{row['kind']}: {rows[-1]['result']}", file=sys.stderr)
    return rows


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    for name in ("before", "after"):
        parser.add_argument(f"--{name}", type=Path, required=True, help="a checkout")
        parser.add_argument(
            f"--{name}-python", type=Path, help=f"default: {name.upper()}/.venv/bin/python"
        )
    parser.add_argument("--devices", type=int, default=1, help="CPU devices (default: %(default)s)")
    parser.add_argument(
        "--folder",
        type=Path,
        help="where to keep the runs; those that are there are used (default: a temporary one)",
    )
    parser.add_argument("--json", type=Path, help="write the table there")
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    with tempfile.TemporaryDirectory() as temporary:
        sides, place = [], (args.folder or Path(temporary)).resolve()
        for name in ("before", "after"):
            checkout = getattr(args, name).resolve()
            # not resolved: a link to another Python is how an environment begins
            python = getattr(args, f"{name}_python") or checkout / ".venv" / "bin" / "python"
            folder = place / name
            if not (checkout / "cv3jax" / "cli.py").is_file() or not python.is_file():
                parser.error(f"--{name}: {checkout} is no checkout, or there is no {python}")
            folder.mkdir(parents=True, exist_ok=True)
            here = place / "here"
            sides.append(Side(name, checkout, python.absolute(), folder, here, args.devices))
        facts = measure.facts() | {side.name: side.facts() for side in sides}
        if not (place / "tars").exists():
            planted.generate(place / "tars", 60, seed=3, shard=30, processes=1)
        rows = measured(*sides, Path("..", "tars"))
    measure.write_json(args.json, {"facts": facts, "rows": rows})
    for name, value in facts.items():
        print(f"{name}: {value}")
    print()
    print(measure.table(("kind", *COLUMNS, "result"), [list(row.values()) for row in rows]))
    sys.exit(0 if all(row["result"] == "identical" for row in rows) else 1)


if __name__ == "__main__":
    main()
