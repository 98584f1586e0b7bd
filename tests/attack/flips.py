"""Change bytes in everything that is written or imported, and see that none changes a result.

    .venv/bin/python tests/attack/flips.py [--flips 20] [--seed 0] [--only records ...]

A flip changes one bit of one file. It is noticed, which is one line of an error, or harmless: what
is read is the same. It prints a table of tries, noticed, harmless and failed, and exits with 1
where one failed. Settings, which people edit, have no checksum, and are not among them.
"""

import argparse
import hashlib
import importlib
import json
import os
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "helpers"))

import encode_runs
import golden_models
import jax
import numpy as np
import shared
import tiny_runs
from released_files import tensors, write_pt

from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades, runs
from cv3jax.checkpoints.streaming import walk
from cv3jax.weights.digests import SUMS, check_digests
from cv3jax.weights.files import open_tensors
from data_pipeline.chat.answers import Answer
from data_pipeline.io.errors import InputError
from data_pipeline.recaption.journal import Journal, identify
from data_pipeline.records.feature_cache import open_cache
from data_pipeline.records.records import open_records

NOTICED, HARMLESS, FAILED = "noticed", "harmless", "failed"
ASKED = {"model": "m", "dialogue": "d"}


class Campaign(NamedTuple):
    """What is flipped: `make` writes it into a folder, and `read` returns a hash of its content."""

    make: Callable[[Path], None]
    read: Callable[[Path], str]


def _hash(parts: Iterator[object]) -> str:
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            found.update(f"{part.dtype}{part.shape}".encode() + part.tobytes())
        else:
            found.update(repr(part).encode())
    return found.hexdigest()


def _copy(source: Callable[[], Path]) -> Callable[[Path], None]:
    """Return what copies a folder, which is made when it is asked for."""

    def copy(folder: Path) -> None:
        shutil.copytree(source(), folder, dirs_exist_ok=True)

    return copy


def _records(folder: Path) -> str:
    source = open_records(folder)
    return _hash(sorted(source[i].items()) for i in range(len(source)))


def _cache(folder: Path) -> str:
    source = open_cache(folder, encode_runs.records())
    return _hash(jax.tree.leaves([source[i] for i in range(len(source))]))


def _cascade(folder: Path) -> str:
    directory, description = cascades.read_cascade(folder)
    params, tokenize = load_params(directory, description)
    arrays = (np.asarray(leaf) for _, leaf in walk(params))
    prompts = ["a small red circle", "two green stars, black background"]
    return _hash([*arrays, tokenize(prompts)] if tokenize else arrays)


def _checkpoints() -> Path:
    return tiny_runs.trained("vae").workdir / "checkpoints"


def _checkpoint(folder: Path) -> str:
    """Read a run's newest checkpoint as a resumed run does, which verifies it first."""
    [*_, step] = runs.steps(folder)
    runs.verify(folder, step)
    return json.dumps(runs.run_of(folder, step), sort_keys=True)


def _make_journal(folder: Path) -> None:
    records = open_records(tiny_runs.scenes())
    with Journal(folder, ASKED, turns=1) as journal:
        for i in range(20):
            answer = Answer(f"a picture of {records[i]['caption']}")
            journal.write(records[i], identify(records[i]), 0, answer, 1)


def _journal(folder: Path) -> str:
    records = open_records(tiny_runs.scenes())
    with Journal(folder, ASKED, turns=1) as journal:
        for i in range(20):
            if not journal.ended(identity := identify(records[i])):  # is asked again
                answer = Answer(f"a picture of {records[i]['caption']}")
                journal.write(records[i], identity, 0, answer, 1)
        return _hash(journal.result(identify(records[i])) for i in range(20))


def _make_torch(folder: Path) -> None:
    write_pt(folder / "u.pt", tensors("unet.safetensors"))


def _weights(name: str) -> Callable[[Path], str]:
    def read(folder: Path) -> str:
        file = folder / name
        check_digests("--unet", file, [file], [], {})
        found, _ = open_tensors(file, "--unet")
        return _hash(part for key in sorted(found) for part in (key, found[key].read()))

    return read


def _make_safetensors(folder: Path) -> None:
    shutil.copy(golden_models.files("micro") / "unet.safetensors", folder / "u.safetensors")
    digest = hashlib.sha256((folder / "u.safetensors").read_bytes()).hexdigest()
    (folder / SUMS).write_text(f"{digest}  u.safetensors\n")


def campaigns() -> dict[str, Campaign]:
    """Return the campaigns by name."""
    return {
        "records": Campaign(_copy(encode_runs.data), _records),
        "feature caches": Campaign(_copy(lambda: encode_runs.cache_of("float16", "int8")), _cache),
        "parts": Campaign(_copy(lambda: golden_models.converted("micro")), _cascade),
        "packaged weights": Campaign(_copy(lambda: cascades.PACKAGED / "scenes"), _cascade),
        "checkpoints": Campaign(
            _copy(lambda: tiny_runs.trained("vae").workdir / "checkpoints"), _checkpoint
        ),
        "journals": Campaign(_make_journal, _journal),
        ".pt": Campaign(_make_torch, _weights("u.pt")),
        "safetensors": Campaign(_make_safetensors, _weights("u.safetensors")),
    }


def flip(folder: Path, rng: random.Random) -> str:
    """Change one bit below a folder, every byte as likely. Returns where, in words."""
    files = [f for f in sorted(folder.rglob("*")) if f.is_file() and f.stat().st_size]
    # every second flip is in any file, so that small ones have their share
    weights = [each.stat().st_size for each in files] if rng.random() < 0.5 else None
    [file] = rng.choices(files, weights)
    data = bytearray(file.read_bytes())
    at, bit = rng.randrange(len(data)), rng.randrange(8)
    data[at] ^= 1 << bit
    file.unlink()  # it may be a link to the original
    file.write_bytes(data)
    return f"{file.relative_to(folder)}, byte {at:,} of {len(data):,}, bit {bit}"


def attempt(campaign: Campaign, right: str, rng: random.Random) -> tuple[str, str]:
    """Return (what became of one flip, where it was and what was said)."""
    with tempfile.TemporaryDirectory(prefix="cv3jax-flips-") as name:
        folder = Path(name) / "flipped"
        folder.mkdir()
        campaign.make(folder)
        where = flip(folder, rng)
        try:
            same = campaign.read(folder) == right
        except InputError as e:
            return (FAILED if "\n" in str(e) else NOTICED), f"{where}: {e}"
        except Exception as e:  # what no reader may raise
            return FAILED, f"{where}: {type(e).__name__}: {e}"
        return (HARMLESS if same else FAILED), f"{where}: read as something else"


def run(campaign: Campaign, flips: int, seed: int) -> tuple[Counter, list[str]]:
    """Return (how many flips were noticed, harmless, failed; a line for each failure)."""
    with tempfile.TemporaryDirectory(prefix="cv3jax-flips-") as name:
        folder = Path(name) / "whole"
        folder.mkdir()
        campaign.make(folder)
        right = campaign.read(folder)
    rng, counts, failures = random.Random(seed), Counter(), []
    for _ in range(flips):
        result, line = attempt(campaign, right, rng)
        counts[result] += 1
        failures += [line] if result == FAILED else []
    return counts, failures


def main(argv: list[str] | None = None) -> int:
    """Run the campaigns, and print their table. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--flips", type=int, default=20, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of campaigns")
    args = parser.parse_args(argv)
    print(f"{'what':<20}{'tries':>8}{NOTICED:>10}{HARMLESS:>10}{FAILED:>8}")
    lines = []
    for name, campaign in campaigns().items():
        if args.only and name not in args.only:
            continue
        counts, failures = run(campaign, args.flips, args.seed)
        found = f"{counts[NOTICED]:>10}{counts[HARMLESS]:>10}{counts[FAILED]:>8}"
        print(f"{name:<20}{args.flips:>8}{found}", flush=True)
        lines += [f"{name}: {line}" for line in failures]
    print("\n".join(lines), file=sys.stderr)
    return bool(lines)


def as_tests() -> int:
    """Run `main` with the devices and the shared directory that the tests have."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
    importlib.import_module("conftest")
    with tempfile.TemporaryDirectory(prefix="cv3jax-flips-") as name:
        os.environ[shared.VARIABLE] = name
        return main()


if __name__ == "__main__":
    sys.exit(as_tests())
