#!/usr/bin/env python3
"""Write locks/*.txt: the versions of constraints*.txt with the SHA-256 of their files on PyPI.

    pip install uv && .ci/lock.py

It is to be run after a change of a requirement or a constraint. A lock is for every supported
version of Python. `make setup` installs locks/build.txt and setup.txt. The others have what one
more target adds to these.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "locks"
OLDEST = "3.11.5"  # what a library of the book takes; another changes no version
TOOLS = "pip\nsetuptools>=77\n"  # what installs and builds
AUDIT = "pip-audit>=2.9,<3\ncyclonedx-bom>=7,<8\n"
# lock → its extras, and its constraints beside constraints.txt
ADDED = {
    "docs": (("docs",), ()),
    "torch": (("torch", "expand-local", "eval", "interop"), ()),
    "tpu": (("tpu-compile",), ("constraints-tpu.txt",)),
    "gpu": (("gpu-compile",), ("constraints-gpu.txt",)),
}
# PyTorch has files of other hashes at each of its indices, and CUDA's libraries belong to one of
# them; they are installed by version
BY_VERSION = re.compile(r"(torch$|triton|nvidia-|cuda-)")


def compiled(*sources: str | Path, constraints: tuple[str, ...] = ()) -> dict[str, str]:
    """Return {package: its lines} of what `sources` need, as uv resolves it."""
    named = [part for name in constraints for part in ("-c", str(ROOT / name))]
    command = ["uv", "pip", "compile", "--quiet", "--no-config", "--universal"]
    options = ["--generate-hashes", "--no-annotate", "--no-header", "--python-version", OLDEST]
    done = subprocess.run(
        [*command, *options, *named, *map(str, sources)], cwd=ROOT, capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(done.stderr)
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=\S)", done.stdout.strip()):
        name = re.match(r"[\w.-]+", entry)[0]
        found[name] = f"{found[name]}\n{entry}" if name in found else entry
    return found


def extras(*names: str) -> list[str]:
    """Return uv's arguments for extras of setup.py."""
    return ["setup.py", *(part for name in names for part in ("--extra", name))]


def write(name: str, found: dict[str, str]) -> None:
    """Write a lock, and print its number of packages."""
    text = "".join(f"{found[key]}\n" for key in sorted(found))
    (LOCKS / f"{name}.txt").write_text(f"# written by .ci/lock.py\n{text}")
    print(f"{name}: {len(found)} packages")


def main() -> None:
    """Write all locks."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("tools", TOOLS), ("audit", AUDIT)):
            (Path(folder) / f"{name}.in").write_text(text)
        build = compiled(f"{folder}/tools.in", constraints=("constraints.txt",))
        audit = compiled(f"{folder}/audit.in", constraints=("constraints.txt",))
    setup = compiled(*extras("dev", "data"), constraints=("constraints.txt",))
    write("build", build)
    write("setup", {name: lines for name, lines in setup.items() if name not in build})
    write("audit", {name: lines for name, lines in audit.items() if name not in build})
    for lock, (names, more) in ADDED.items():
        found = compiled(*extras("dev", "data", *names), constraints=("constraints.txt", *more))
        kept = {
            name: lines
            for name, lines in found.items()
            # `setup` may have a package for one system alone, which the extra needs on all
            if (setup | build).get(name) != lines
            and (lock != "torch" or not BY_VERSION.match(name))
        }
        write(lock, kept)


if __name__ == "__main__":
    main()
