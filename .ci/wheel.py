#!/usr/bin/env python3
"""Build the wheel and try it as a user has it: in an empty environment, away from the sources.

    .ci/wheel.py [--python python3.11 --python python3.12 ...] [--json FILE]

The wheel is built from the source distribution, and both have to pass `twine check`. Each Python
given gets an environment with the wheel and the newest libraries that setup.py allows, none of
which only training takes. It draws two pictures with the packaged cascade `scenes`. Then the extra
[train] is added, and its recipes are loaded. Fails when anything does.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NOT_INSTALLED = ("array_record", "grain", "matplotlib", "pyarrow", "tensorflow_datasets", "torch")
PROMPT = "a small green star on the left and a large purple circle on the right, black background"
PNG = b"\x89PNG"
# what the wheel has beside Python files, by the folder in the sources and in the wheel
FILES = {
    "cv3jax": "cv3jax",
    "configs": "cv3jax/configs",
    "launch/topologies": "cv3jax/topologies",
    "data_pipeline": "data_pipeline",
}
FOUND = """
import importlib.util, json, sys
print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name)]))
"""
LOADED = """
from cv3jax import recipes
from cv3jax.distillation.parsing import parse_recipe
for name in recipes.recipes():
    for variant in ("", ":tiny"):
        parse_recipe(recipes.load(f"{name}{variant}", []))
print(len(recipes.recipes()))
"""


def run(*command: object, cwd: Path, home: Path | None = None) -> subprocess.CompletedProcess:
    """Return what a command printed; end this program where it fails."""
    kept = ("PATH", "TMPDIR", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "https_proxy", "HTTPS_PROXY")
    pip = {name: value for name, value in os.environ.items() if name.startswith("PIP_")}
    environment = {name: os.environ[name] for name in kept if name in os.environ} | pip
    done = subprocess.run(
        list(map(str, command)),
        cwd=cwd,
        env={**environment, "HOME": str(home or Path.home()), "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))}\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done


def tracked() -> list[str]:
    """Return the names of all files that git has or would have."""
    listed = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).stdout.splitlines()
    return [name for name in listed if (ROOT / name).is_file()]


def build(folder: Path) -> Path:
    """Return a wheel that was built from the source distribution of a copy of the sources."""
    source = folder / "source"
    for name in tracked():
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, source / name)
    tools = environment(Path(sys.executable), folder / "tools")
    run(tools, "-m", "pip", "install", "--quiet", "build", "twine", cwd=folder)
    run(tools, "-m", "build", "--outdir", folder / "dist", source, cwd=folder)
    built = sorted((folder / "dist").iterdir())
    run(tools, "-m", "twine", "check", "--strict", *built, cwd=folder)
    (wheel,) = (path for path in built if path.suffix == ".whl")
    (archive,) = (path for path in built if path.suffix == ".gz")
    with tarfile.open(archive) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    if absent := [
        name for name in ("LICENSE", "CHANGELOG.md", "constraints.txt") if name not in names
    ]:
        sys.exit(f"{archive.name} lacks {absent}")
    check_files(wheel)
    return wheel


def check_files(wheel: Path) -> None:
    """End this program where the wheel does not have every tracked file of the packages."""
    with zipfile.ZipFile(wheel) as file:
        there = {name for name in file.namelist() if ".dist-info/" not in name}
    wanted = {
        name.replace(folder, installed, 1)
        for name in tracked()
        for folder, installed in FILES.items()
        if name.startswith(f"{folder}/")
    }
    if there != wanted:
        sys.exit(
            f"{wheel.name} lacks {sorted(wanted - there)}, and has {sorted(there - wanted)} beside"
        )


def environment(python: Path, folder: Path) -> Path:
    """Return the Python of a new environment."""
    run(python, "-m", "venv", folder, cwd=folder.parent)
    return folder / "bin" / "python"


def size(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def try_out(python: Path, wheel: Path, folder: Path) -> dict:
    """Return seconds and sizes of an installation that samples; end this program where it fails."""
    place = folder / "elsewhere"
    place.mkdir(parents=True)
    began = time.monotonic()
    own = environment(python, folder / "venv")
    pip = [own, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run(*pip, wheel, cwd=place)
    installed = time.monotonic()
    run(own, "-m", "pip", "check", cwd=place)
    figures = {
        "python": run(
            own, "-c", "import platform; print(platform.python_version())", cwd=place
        ).stdout.strip(),
        "install_seconds": round(installed - began, 1),
        "packages": len(run(own, "-m", "pip", "list", "--format=freeze", cwd=place).stdout.split()),
        "megabytes": round(size(folder / "venv") / 1e6),
    }
    if found := json.loads(run(own, "-c", FOUND, *NOT_INSTALLED, cwd=place).stdout):
        sys.exit(f"a plain install brought {', '.join(found)}")
    command = [own.parent / "cv3jax", "sample", "--checkpoint", "scenes", "--prompt", PROMPT]
    for name in ("first_sample_seconds", "second_sample_seconds"):  # it keeps what it compiled
        began = time.monotonic()
        run(*command, "--out", place / name, cwd=place, home=folder)
        figures[name] = round(time.monotonic() - began, 1)
        pictures = list((place / name).glob("00_*.png"))
        if len(pictures) != 1 or not pictures[0].read_bytes().startswith(PNG):
            sys.exit(f"cv3jax sample left {sorted(path.name for path in place.rglob('*'))}")
    run(*pip, f"cv3jax[train] @ {wheel.as_uri()}", cwd=place)
    run(own, "-m", "pip", "check", cwd=place)
    figures["recipes"] = int(run(own, "-c", LOADED, cwd=place).stdout)
    figures["megabytes_with_train"] = round(size(folder / "venv") / 1e6)
    return figures


def main() -> None:
    """Build the wheel, try it with each Python, and print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--python", action="append", help="of an environment (default: this one)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    args = parser.parse_args()
    results = []
    with tempfile.TemporaryDirectory() as temporary:
        wheel = build(Path(temporary))
        print(f"{wheel.name}: {wheel.stat().st_size / 1e6:.1f} MB", file=sys.stderr)
        for number, python in enumerate(args.python or [sys.executable]):
            folder = Path(temporary) / str(number)
            results.append(try_out(Path(python), wheel, folder))
            print(json.dumps(results[-1]), flush=True)
            shutil.rmtree(folder)
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
