"""Test locks/: every file of an install has a hash, and the versions are those of constraints."""

import importlib.metadata
import re

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from setup_script import ROOT, metadata

LOCKS = sorted((ROOT / "locks").glob("*.txt"))
# what Linux does not need, so that constraints.txt lacks it
OTHERS = {"appnope", "colorama", "httpx2-jsfetch", "nest-asyncio", "pywin32"}
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}(?: \\)?")


def entries(text: str) -> dict[str, tuple[str, int]]:
    """Return {package: (version, number of hashes)} of a lock."""
    found: dict[str, tuple[str, int]] = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        if HASH.fullmatch(line):
            name = next(reversed(found))
            found[name] = (found[name][0], found[name][1] + 1)
            continue
        name, version = re.fullmatch(r"([\w.-]+)==([\w.+!-]+)(?: ;.*)? \\", line).groups()
        found[canonicalize_name(name)] = (version, 0)
    return found


def pins() -> dict[str, str]:
    """Return {package: version} of the constraints."""
    lines = [line for path in ROOT.glob("constraints*.txt") for line in path.open()]
    pairs = [line.split("==") for line in lines if "==" in line and not line.startswith("#")]
    return {canonicalize_name(name): version.strip() for name, version in pairs}


def needed(requirements: list[str]) -> set[str]:
    """Return the names of what is installed here for these requirements, with what that needs."""
    found, left = set(), [(Requirement(each), "") for each in requirements]
    extras = metadata()["extras_require"]
    while left:
        requirement, extra = left.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        if name == "cv3jax":
            left += [(Requirement(r), "") for e in requirement.extras for r in extras[e]]
            continue
        for wanted in ("", *requirement.extras):
            if (name, wanted) in found:
                continue
            found.add((name, wanted))
            try:
                requires = importlib.metadata.requires(name) or []
            except importlib.metadata.PackageNotFoundError:
                continue  # of an extra that this environment lacks
            left += [(Requirement(each), wanted) for each in requires]
    return {name for name, _ in found}


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.stem)
def test_every_package_of_a_lock_has_a_version_and_hashes(path):
    found = entries(path.read_text())
    assert found
    assert [name for name, (_, hashes) in found.items() if not hashes] == []
    pinned = pins()
    assert {
        name: version
        for name, (version, _) in found.items()
        if pinned.get(name, version) != version
    } == {}
    if path.stem not in ("audit", "build"):
        assert found.keys() <= pinned.keys() | OTHERS


def test_the_locks_of_the_set_up_hold_everything_that_it_needs():
    meta = metadata()
    asked = [
        *meta["install_requires"],
        *meta["extras_require"]["dev"],
        *meta["extras_require"]["data"],
    ]
    locked = {
        name
        for stem in ("build", "setup")
        for name in entries((ROOT / "locks" / f"{stem}.txt").read_text())
    }
    assert sorted(needed(asked) - locked) == []
    assert len(locked) > 100


def test_make_installs_by_hash_all_but_the_sources_and_pytorch():
    text = (ROOT / "Makefile").read_text()
    lines = [line for line in text.splitlines() if re.search(r"\$\(PIP\)|pip install", line)]
    free = [line for line in lines if "--require-hashes" not in line and line[0] != "#"]
    assert [line.strip() for line in free] == [
        "PIP = $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile",
        "$(PIP) --no-deps --no-build-isolation -e . && \\",
        "@$(PIP) -c constraints.txt -e '.[dev,data,torch,expand-local,eval,interop]'",
    ]
    for path in LOCKS:
        assert f"locks/{path.name}" in text


def test_the_workflow_audits_every_week_and_on_a_change():
    folder = ROOT / ".github" / "workflows"
    workflow = yaml.load((folder / "audit.yml").read_text(), yaml.BaseLoader)
    assert workflow["on"]["schedule"]
    assert "constraints*.txt" in workflow["on"]["push"]["paths"]
    steps = [step.get("run") for step in workflow["jobs"]["audit"]["steps"]]
    assert {"make audit", "make sbom"} <= set(steps)
