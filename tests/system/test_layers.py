"""Test the architecture: layers, cycles, typed settings and lengths of files.

The sources are read without running them. Each test lists all violations at once.
"""

import ast
import fnmatch
import sys
from collections.abc import Iterable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("cv3jax", "data_pipeline")
# the floors of cv3jax, from the ground up; an import runs down, or stays on its floor
FLOORS = (
    ("models", "diffusion", "fields", "recipes", "reports", "distributed", "checkpoints", "web"),
    ("kernels", "optim", "cli"),
    ("cascade",),
    ("sampling", "weights", "adapters"),
    ("api",),
    ("training", "evaluation", "serving"),
    ("distillation", "precompute", "lora"),
    ("aot", "quickstart"),
    ("commands", "__main__"),
)
ARRAYS = {"jax", "numpy"}
# what a file may import besides the standard library; the first pattern that fits counts, and a
# name covers what is below it
MAY_IMPORT = {
    "cv3jax/models/int8.py": {*ARRAYS, "qwix"},
    "cv3jax/models/*": {*ARRAYS, "flax", "cv3jax.models"},
    "cv3jax/diffusion/*": {*ARRAYS, "cv3jax.diffusion", "cv3jax.models"},
    "cv3jax/optim/*": {*ARRAYS, "optax", "cv3jax.optim", "cv3jax.distributed"},
    "configs/*": {"ml_collections", "cv3jax.configs"},  # the name they are installed under
}
MAY_NOT_IMPORT = {
    "data_pipeline/*": {"jax", "jaxlib", "flax", "cv3jax", "tensorflow"},
    "*": {"flax", "tensorflow"},
}
ERRORS = "data_pipeline.io.errors"  # may be raised anywhere but in the models
PARSES_RECIPES = (
    "cv3jax/commands/*",
    "cv3jax/recipes.py",
    "cv3jax/training/parsing.py",
    "cv3jax/distillation/parsing.py",
    "cv3jax/lora/parsing.py",
)
LINES, PARAMETERS = 300, 8
# flags of a command, and the calls that users of diffusers expect of a pipeline
LONG_CALLS = (
    "cv3jax/commands/",
    "cv3jax/weights/pytorch/pipeline.py",
    "cv3jax/api/cascade.py",
)


def sources(*folders: str) -> dict[str, str]:
    """Return the source of all Python files in those folders by their path below the root."""
    return {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for folder in folders
        for path in sorted((ROOT / folder).rglob("*.py"))
    }


def name_of(path: str) -> str:
    """Return the module of a file."""
    return path.removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def room_of(module: str) -> str:
    """Return the folder of a module, or the module itself if it stands beside the folders."""
    return ".".join(module.split(".")[:2])


def imports(source: str, package: str = "") -> set[str]:
    """Return the full name of every module that a source imports anywhere.

    `from a import b` counts as a and as a.b.
    """
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parts = package.split(".")
            above = parts[: len(parts) + 1 - node.level] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            found |= {module} | {f"{module}.{alias.name}" for alias in node.names}
    return found


def graph(files: dict[str, str]) -> dict[str, set[str]]:
    """Return the modules of `files` that each module imports."""
    modules = {name_of(path): path for path in files}
    return {
        module: (imports(files[path], ".".join(path.split("/")[:-1])) & modules.keys() - {module})
        for module, path in modules.items()
    }


def rooms(arrows: dict[str, set[str]]) -> dict[str, set[str]]:
    """Return the same graph between folders."""
    found: dict[str, set[str]] = {}
    for module, targets in arrows.items():
        room = room_of(module)
        found.setdefault(room, set()).update({room_of(other) for other in targets} - {room})
    return found


def circles(arrows: dict[str, set[str]]) -> list[str]:
    """Return what remains after all that imports nothing else is removed repeatedly."""
    left = dict(arrows)
    while free := [node for node, targets in left.items() if not targets & left.keys()]:
        for node in free:
            del left[node]
    return sorted(left)


def upward(arrows: dict[str, set[str]]) -> list[str]:
    """Return the imports of cv3jax from a higher layer, and folders without a layer."""
    floor = {f"cv3jax.{room}": level for level, names in enumerate(FLOORS) for room in names}
    floor["cv3jax"] = len(FLOORS)  # the package's own module imports nothing and is free to all
    wrong = []
    for room, targets in rooms(arrows).items():
        if room.startswith("cv3jax") and room not in floor:
            wrong.append(f"{room} has no floor")
        wrong += [
            f"{room} → {other}"
            for other in targets
            if floor.get(other, -1) > floor.get(room, len(FLOORS)) and other != "cv3jax"
        ]
    return sorted(wrong)


def covers(names: Iterable[str], module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in names)


def foreign(path: str, source: str) -> list[str]:
    """Return what the file at `path` imports and may not."""
    modules = imports(source, ".".join(path.split("/")[:-1]))
    modules = {m for m in modules if m.split(".")[0] not in sys.stdlib_module_names}
    if not path.startswith("cv3jax/models/"):
        modules = {m for m in modules if not covers({ERRORS}, m) and not ERRORS.startswith(m)}
    for pattern, allowed in MAY_IMPORT.items():
        if fnmatch.fnmatchcase(path, pattern):
            # `from cv3jax.diffusion import schedule` names the package too
            above = {name.rsplit(".", 1)[0] for name in allowed if "." in name}
            return sorted(m for m in modules if not covers(allowed, m) and m not in above)
    patterns = MAY_NOT_IMPORT.items()
    forbidden = next(names for pattern, names in patterns if fnmatch.fnmatchcase(path, pattern))
    return sorted(m for m in modules if covers(forbidden, m))


def long_signatures(path: str, source: str) -> list[str]:
    """Return the functions of more than PARAMETERS parameters."""
    wrong = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [a.arg for a in (*node.args.posonlyargs, *node.args.args)]
            count = len(names) + len(node.args.kwonlyargs) - (names[:1] in (["self"], ["cls"]))
            if count > PARAMETERS:
                wrong.append(f"{path}:{node.lineno} {node.name} has {count} parameters")
    return wrong


def test_imports_run_down():
    files = sources(*PACKAGES)
    assert {"cv3jax/training/loop.py", "data_pipeline/io/errors.py"} <= files.keys()
    assert upward(graph(files)) == []


def test_there_is_no_circle_of_files_or_folders():
    arrows = graph(sources(*PACKAGES))
    assert "cv3jax.diffusion.schedule" in arrows["cv3jax.training.programs"]
    assert circles(arrows) == []
    assert circles(rooms(arrows)) == []


def test_files_import_only_what_they_may():
    files = sources(*PACKAGES, "configs")
    assert {path: bad for path, text in files.items() if (bad := foreign(path, text))} == {}


def test_recipes_are_parsed_in_few_places():
    users = [path for path, text in sources(*PACKAGES).items() if "import ConfigDict" in text]
    assert users
    fine = [p for p in users if any(fnmatch.fnmatchcase(p, allowed) for allowed in PARSES_RECIPES)]
    assert users == fine


def test_a_file_is_one_idea():
    files = sources(*PACKAGES, "configs", "tests", "benchmarks", "examples", "launch")
    lengths = {path: len(text.splitlines()) for path, text in files.items()}
    assert {path: count for path, count in lengths.items() if count > LINES} == {}
    assert [path for path in files if path.endswith("/utils.py")] == []


def test_functions_have_few_parameters():
    files = sources(*PACKAGES)
    assert len(files) > 150
    wrong = [each for path, text in files.items() for each in long_signatures(path, text)]
    assert [each for each in wrong if not each.startswith(LONG_CALLS)] == []


@pytest.mark.parametrize(
    ("path", "source", "wrong"),
    [
        ("cv3jax/models/unet.py", "from cv3jax.diffusion.schedule import T", True),
        ("cv3jax/models/unet.py", "def f():\n  from data_pipeline.io import errors", True),
        ("cv3jax/models/unet.py", "import flax.linen, math\nfrom cv3jax.models import vae", False),
        ("cv3jax/cascade/parts.py", "import flax", True),
        ("cv3jax/cascade/parts.py", "import flaxen, optax", False),
        ("cv3jax/diffusion/sampler.py", "from cv3jax.diffusion import schedule", False),
        ("cv3jax/diffusion/sampler.py", "from . import schedule", False),
        ("cv3jax/diffusion/sampler.py", "import optax", True),
        ("cv3jax/diffusion/sampler.py", "from data_pipeline.io.errors import InputError", False),
        ("cv3jax/diffusion/sampler.py", "from data_pipeline.io.files import write_json", True),
        ("data_pipeline/loading/loader.py", "from jax import numpy", True),
        ("configs/base_256.py", "from ml_collections import ConfigDict\nimport jax", True),
    ],
)
def test_what_a_file_may_not_import_is_seen(path, source, wrong):
    assert bool(foreign(path, source)) == wrong


def test_an_import_that_runs_up_and_a_circle_are_seen():
    files = {
        "cv3jax/diffusion/a.py": "def f():\n    from cv3jax.training import b",
        "cv3jax/training/b.py": "from cv3jax.diffusion.a import f",
        "cv3jax/attic/c.py": "from cv3jax.training import b",
        "cv3jax/models/d.py": "",
    }
    arrows = graph(files)
    assert upward(arrows) == ["cv3jax.attic has no floor", "cv3jax.diffusion → cv3jax.training"]
    both = {"cv3jax.diffusion.a", "cv3jax.training.b"}
    # and what stands on the circle
    assert circles(arrows) == ["cv3jax.attic.c", *sorted(both)]
    assert circles({**arrows, "cv3jax.diffusion.a": set()}) == []


def test_long_signatures_are_seen():
    names = ", ".join(f"a{i}" for i in range(PARAMETERS))
    assert long_signatures("x.py", f"class A:\n    def f(self, {names}): ...") == []
    (said,) = long_signatures("x.py", f"def f({names}, *, z): ...")
    assert said == "x.py:1 f has 9 parameters"
