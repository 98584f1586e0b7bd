"""Who may import whom, file sizes, and no drawer called utils: read from the sources, so it holds
for what nobody runs.
"""

import ast
import fnmatch
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cv3jax", "data_pipeline", "configs")
SOURCES = sorted(
    path.relative_to(ROOT) for package in PACKAGES for path in (ROOT / package).rglob("*.py")
)
EVERY_PYTHON_FILE = sorted(
    path.relative_to(ROOT)
    for folder in (*PACKAGES, "tests", "benchmarks", "examples", "launch")
    for path in (ROOT / folder).rglob("*.py")
)

# What a file may import besides the standard library. The first pattern that fits counts; a name
# covers what is below it.
ARRAYS = {"jax", "numpy"}
MAY_IMPORT = {
    # numpy: tables that do not depend on the backend
    "cv3jax/models/*": {*ARRAYS, "flax", "cv3jax.models"},
    "cv3jax/schedule.py": ARRAYS,
    "cv3jax/resize.py": ARRAYS,
    "cv3jax/sharding.py": ARRAYS,
    "cv3jax/denoiser.py": {*ARRAYS, "cv3jax.schedule"},
    "cv3jax/sampler.py": {*ARRAYS, "cv3jax.schedule"},
    "cv3jax/objectives.py": {*ARRAYS, "cv3jax.schedule", "cv3jax.denoiser"},
    "cv3jax/distillation.py": {
        *ARRAYS,
        *(
            f"cv3jax.{name}"
            for name in ("schedule", "denoiser", "sampler", "objectives", "models.embeddings")
        ),
    },
    "cv3jax/state.py": {*ARRAYS, "optax"},
    "cv3jax/muon.py": {*ARRAYS, "optax", "cv3jax.sharding"},  # which axes are a stack of layers
    "cv3jax/optim.py": {*ARRAYS, "optax", "cv3jax.muon"},
    "cv3jax/checkpoint.py": {
        *ARRAYS,
        "orbax",
        "grain",
        "cv3jax.sharding",
        "cv3jax.manifest",
        "cv3jax.leaves",
    },
    "cv3jax/leaves.py": {*ARRAYS, "orbax"},
    # the name under which the recipes are installed
    "configs/*": {"ml_collections", "cv3jax.configs"},
}
# Everything else may import anything but these; "*" is every file that no pattern above fits.
MAY_NOT_IMPORT = {
    "data_pipeline/*": {"jax", "jaxlib", "flax", "cv3jax", "tensorflow"},
    "*": {"flax", "tensorflow"},
}
ANYWHERE_BUT_IN_MODELS = "data_pipeline.errors"

KNOWN = (
    "cv3jax/schedule.py",
    "cv3jax/denoiser.py",
    "cv3jax/objectives.py",
    "cv3jax/sampler.py",
    "cv3jax/resize.py",
    "cv3jax/models/unet.py",
    "cv3jax/models/vae.py",
    "cv3jax/models/t5.py",
    "cv3jax/models/layers.py",
    "cv3jax/models/embeddings.py",
    "cv3jax/weights/names.py",
    "cv3jax/weights/tree.py",
    "data_pipeline/errors.py",
    "data_pipeline/records.py",
)


def imports(source: str, package: str = "") -> set[str]:
    """Every module a source imports, wherever in it, under its full name; `from a import b` counts
    as a and as a.b.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = (
                package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
            )
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def covers(names: set[str], module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def violations(path: str, modules: set[str]) -> list[str]:
    """What of `modules` the file at `path` may not import."""
    modules = {m for m in modules if m.split(".")[0] not in sys.stdlib_module_names}
    if not path.startswith("cv3jax/models/"):
        modules = {m for m in modules if not covers({ANYWHERE_BUT_IN_MODELS}, m)}
    for pattern, allowed in MAY_IMPORT.items():
        if fnmatch.fnmatchcase(path, pattern):
            # `from cv3jax import schedule`
            parents = {name.rsplit(".", 1)[0] for name in allowed if "." in name}
            return sorted(m for m in modules if not covers(allowed, m) and m not in parents)
    forbidden = next(
        names for pattern, names in MAY_NOT_IMPORT.items() if fnmatch.fnmatchcase(path, pattern)
    )
    return sorted(m for m in modules if covers(forbidden, m))


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_imports_only_what_it_may(path):
    package = ".".join(path.parent.parts)
    assert violations(path.as_posix(), imports((ROOT / path).read_text(), package)) == []


def test_the_rule_sees_the_files():
    assert set(KNOWN) <= {path.as_posix() for path in SOURCES}


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        (
            "cv3jax/models/unet.py",
            "from cv3jax.schedule import T",
            ["cv3jax.schedule", "cv3jax.schedule.T"],
        ),
        (
            "cv3jax/models/unet.py",
            "def f():\n  from data_pipeline import errors",
            ["data_pipeline", "data_pipeline.errors"],
        ),
        (
            "cv3jax/models/unet.py",
            "import flax.linen as nn, math\nfrom cv3jax.models import layers",
            [],
        ),
        ("cv3jax/cascade.py", "import flax", ["flax"]),
        ("cv3jax/cascade.py", "import flaxen, optax\nfrom cv3jax.models.unet import UNet", []),
        ("cv3jax/sampler.py", "from cv3jax import schedule\nfrom . import schedule", []),
        ("cv3jax/sampler.py", "from . import denoiser", ["cv3jax.denoiser"]),
        ("cv3jax/schedule.py", "import cv3jax.denoiser", ["cv3jax.denoiser"]),
        (
            "cv3jax/checkpoint.py",
            "import orbax.checkpoint, grain.python\nfrom data_pipeline.errors import InputError",
            [],
        ),
        ("data_pipeline/loader.py", "from jax import numpy", ["jax", "jax.numpy"]),
        (
            "configs/base.py",
            "from ml_collections import ConfigDict\nfrom cv3jax.configs import common\nimport jax",
            ["jax"],
        ),
    ],
)
def test_the_rule_can_fail(path, source, wrong):
    assert violations(path, imports(source, ".".join(Path(path).parent.parts))) == wrong


@pytest.mark.parametrize("path", EVERY_PYTHON_FILE, ids=str)
def test_a_file_is_one_idea(path):
    assert path.name != "utils.py"
    lines = len((ROOT / path).read_text().splitlines())
    assert lines <= 400, f"{lines} lines are two ideas"
