r"""Add a small trained cascade to the package, where `--checkpoint NAME` finds it.

    python benchmarks/package_weights.py runs/quickstart --name scenes
    cv3jax sample --checkpoint scenes --prompt "a small green star on the left, black background" \
        --out pictures

Matrices are stored in half precision; the computation is in float32. orbax names its files at
random. So a part that another packaged cascade has with the same values is copied from there. Then
packaging a second time changes no file, and git stores shared parts once.
"""

import argparse
import dataclasses
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import SingleDeviceSharding

from cv3jax.cascade.parts import part_shapes
from cv3jax.checkpoints import cascades, manifest, streaming
from cv3jax.cli import run_command
from cv3jax.distributed.partitioning import abstract
from cv3jax.weights.importing import copy_tokenizer
from data_pipeline.io.errors import InputError

DTYPES = ("float16", "bfloat16")


class Rounded(NamedTuple):
    """Hold a part's parameters as they are stored, and their largest rounding error.

    The error of a matrix is the 2-norm of the difference over the 2-norm of the matrix.
    """

    params: Any
    error: float


def rounded(params: Any, dtype: str, part: str) -> Rounded:
    """Return the parameters with all arrays of two and more axes in `dtype`.

    The others, scales and biases, keep their dtype: they are a thousandth of the bytes.

    Raises:
        InputError: if the dtype cannot hold a value.
    """
    errors = [0.0]

    def one(x: np.ndarray) -> np.ndarray:
        if x.ndim < 2:
            return x
        with np.errstate(over="ignore"):
            y = x.astype(jnp.dtype(dtype))
        if not np.isfinite(y.astype(np.float32)).all():
            raise InputError(
                f"--dtype {dtype}: the {part} has values up to {np.abs(x).max():.3g}, which it"
                " cannot hold"
            )
        errors.append(
            float(
                np.linalg.norm(x - y.astype(np.float32))
                / max(np.linalg.norm(x), np.finfo(np.float32).tiny)
            )
        )
        return y

    return Rounded(jax.tree.map(one, params), max(errors))


def same(directory: Path, params: Any) -> bool:
    """Return whether `directory` has an undamaged part with these values in these dtypes."""
    if manifest.damage(directory) is not None:
        return False
    there, ours = dict(streaming.walk(streaming.open_tree(directory))), dict(streaming.walk(params))
    if {name: (x.shape, x.dtype) for name, x in there.items()} != {
        name: (x.shape, x.dtype) for name, x in ours.items()
    }:
        return False
    return all(np.array_equal(there[name].read(), ours[name]) for name in ours)


def package(source: Path, name: str, dtype: str, force: bool) -> list[tuple[str, int, int, float]]:
    """Write the cascade at `source` to the package as `name`.

    Returns (part, parameters, bytes on disk, rounding error) of each part.

    Raises:
        InputError: if there is no cascade or a damaged one, if the name is malformed or taken, or
            if the dtype cannot hold a value.
        OSError: if it could not be written; what was packaged before stays.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise InputError(
            f"--name {name!r}: small letters, digits and _ alone, for it is given in place of a"
            " path"
        )
    target = cascades.PACKAGED / name
    if target.exists() and not force:
        raise InputError(f"--name {name}: {target} exists already; --force replaces it")
    directory, description = cascades.read_cascade(source)
    here, rows = SingleDeviceSharding(jax.local_devices()[0]), []
    cascades.PACKAGED.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cascades.PACKAGED, prefix=f".{name}.") as place:
        new = Path(place) / "new"
        for part in description.parts:
            like = abstract(part_shapes(description, part), here)
            stored = rounded(
                jax.tree.map(np.asarray, cascades.load_part(directory / part, like)), dtype, part
            )
            others = (
                cascades.PACKAGED / other / part
                for other in dict.fromkeys((name, *cascades.packaged()))
            )
            if (
                known := next((other for other in others if same(other, stored.params)), None)
            ) is not None:
                shutil.copytree(known, new / part, ignore=shutil.ignore_patterns("tokenizer"))
            else:
                cascades.save_part(new / part, stored.params)
                # names this machine's path, and no one reads it
                (new / part / "commit_success.txt").unlink(missing_ok=True)
            if part == "t5":
                copy_tokenizer(directory / part / "tokenizer", new / part / "tokenizer")
                manifest.write(new / part / "tokenizer")
            count = sum(x.size for x in jax.tree.leaves(stored.params))
            rows.append((part, count, size(new / part), stored.error))
        stages = {  # they are for a CPU, whatever they were trained on
            name: dataclasses.replace(stage, model={**stage.model, "dtype": "float32"})
            for name, stage in description.stages.items()
        }
        cascades.write_cascade(new, dataclasses.replace(description, stages=stages))
        if target.exists():
            target.rename(Path(place) / "old")
        new.rename(target)
    return rows


def size(directory: Path) -> int:
    """Return the bytes of the files below `directory`."""
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())


def main(argv: list[str] | None = None) -> None:
    """Package a cascade from the command line and print the sizes of its parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source",
        type=Path,
        metavar="CASCADE",
        help="a cascade directory, or the --workdir of a run that made one",
    )
    parser.add_argument("--name", required=True, help="what it is called, e.g. scenes")
    parser.add_argument(
        "--dtype", choices=DTYPES, default=DTYPES[0], help="of the matrices (default: %(default)s)"
    )
    parser.add_argument("--force", action="store_true", help="replace the one of that name")
    args = parser.parse_args(argv)
    rows = package(args.source, args.name, args.dtype, args.force)
    print("| part | parameters | bytes | largest rounding error of a matrix |\n|---|---|---|---|")
    for part, count, stored, error in rows:
        print(f"| {part} | {count:,} | {stored:,} | {error:.1e} |")
    target = cascades.PACKAGED / args.name
    print(f"\n{target}: {size(target):,} bytes; all packaged: {size(cascades.PACKAGED):,}")


if __name__ == "__main__":
    run_command(main)
