"""Test that a plain install samples and converts, and that other commands name their extra."""

import importlib.metadata
import json
import re
import subprocess
import sys
from itertools import chain

import golden_models
import pytest
import subprocesses
from packaging.requirements import Requirement
from setup_script import ROOT, metadata
from test_layers import imports, sources

from data_pipeline.io import extras
from data_pipeline.io.errors import InputError

META = metadata()
# commands that are run one after the other in a process without the extras
PROGRAM = '''
import contextlib, io, json, sys

blocked, commands = json.loads(sys.argv[1])

class Without:
    """A finder of modules that does not find the blocked ones."""

    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] not in blocked:
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = map(Without, sys.meta_path)
from cv3jax import cli
for command in commands:
    sys.argv = ["cv3jax", *command]
    said, code = io.StringIO(), 0
    with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
        try:
            cli.main()
        except SystemExit as e:
            code = e.code or 0
    # a slow machine also says what it waits for
    lines = said.getvalue().splitlines(keepends=True)
    lines = [line for line in lines if not line.startswith("cv3jax: loading JAX")]
    print(json.dumps([code, "".join(lines)]))
'''


def run_without(names: tuple[str, ...], commands: list[list[str]]) -> list[tuple[int, str]]:
    """Return each command's exit code and stderr, in a process that cannot import `names`."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([names, commands])],
        env=subprocesses.environment(),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return [tuple(json.loads(line)) for line in done.stdout.splitlines()]


def plain_name(requirement: str) -> str:
    """Return the normalised name of the distribution that a requirement asks for."""
    return re.split(r"[\[<>=]", requirement)[0].lower().replace("_", "-")


def test_a_plain_install_samples_and_converts(tmp_path):
    """`sample` always imports what --prompts needs."""
    micro, pictures = str(golden_models.converted("micro")), tmp_path / "pictures"
    # pyarrow comes with tensorflow_datasets; scipy and optax come with jax and flax
    extra = {*extras.EXTRAS["train"], *extras.EXTRAS["data"]} - {"scipy", "optax", "jinja2"}
    ended = run_without(
        (*extra, "tensorflow", "torch"),
        [
            ["sample", "--checkpoint", micro, "--prompt", "a red star", "--out", str(pictures)],
            ["convert", "--checkpoint", micro, "--to", "safetensors", "--out", str(tmp_path / "w")],
        ],
    )
    assert [code for code, _ in ended] == [0, 0], ended
    assert len(list(pictures.glob("00_*.png"))) == 1
    assert list((tmp_path / "w").rglob("*.safetensors"))


def test_what_needs_an_extra_names_it_in_one_line_and_writes_nothing(tmp_path):
    place = str(tmp_path / "out")
    (tmp_path / "a.png").touch()
    given = ["--input", str(tmp_path)]
    train = {
        "train": ["--config=scenes_vae:tiny", "--workdir", place, f"--config.data.path={tmp_path}"],
        "distill": ["--config=scenes_distill_base:tiny", "--workdir", place],
        "quickstart": ["--workdir", place],
        "compile": ["--config=scenes_base:tiny", "--topology", "v5e:2x2"],
        "data encode": ["--config=scenes_base", *given, "--checkpoint=scenes", "--out", place],
        "data pack": [*given, "--out", place],
        "data inspect": given,
        "data scenes": ["--num=2", "--split=train", "--out", place],
    }
    data = {
        "data build": [*given, "--out", place],
        "data recaption": [
            *(*given, "--out", place, "--endpoint", "http://localhost:1/v1", "--model=m")
        ],
    }
    sample = ["--checkpoint=scenes", "--prompt=a star", "--out", place, "--expand-model=m"]
    expand = {"sample": [*sample, "--expand=http://localhost:1/v1"]}
    serve = {"serve": ["--checkpoint=scenes", "--workdir", place]}
    safety = {"serve": [*serve["serve"], "--safety"]}
    for extra, commands in (
        ("train", train),
        ("data", data),
        ("expand", expand),
        ("serve", serve),
        ("safety", safety),
    ):
        asked = [[*name.split(), *flags] for name, flags in commands.items()]
        for argv, (code, said) in zip(asked, run_without(extras.EXTRAS[extra], asked), strict=True):
            line = rf"cv3jax: .* needs \w+, which is not installed: pip install 'cv3jax\[{extra}\]'"
            assert re.match(line, said), (argv, said)
            assert (code, said.count("\n")) == (2, 1), argv
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png"]


def test_what_is_imported_late_is_asked_for_first(monkeypatch):
    extras.check("a report", "matplotlib", "tensorboardX")
    monkeypatch.setitem(sys.modules, "tensorboardX", None)
    with pytest.raises(InputError, match=r"a report needs tensorboardX, .*'cv3jax\[train\]'"):
        extras.check("a report", "matplotlib", "tensorboardX")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r"reading x needs pyarrow, .*'cv3jax\[data\]'"):
        extras.load("pyarrow", "reading x")
    assert extras.missing(ModuleNotFoundError("no module", name="cv3jax.oops")) is None


def test_every_library_that_is_imported_is_declared():
    """It is declared in install_requires, or in the extra that extras.py names."""
    owners = importlib.metadata.packages_distributions()

    def declared(requirements: list[str]) -> set[str]:
        names = {plain_name(requirement) for requirement in requirements}
        return {m for m, by in owners.items() if names & {plain_name(each) for each in by}}

    wrong = {
        module: extra
        for extra, modules in extras.EXTRAS.items()
        for module in set(modules) & owners.keys() - declared(META["extras_require"][extra])
    }
    assert wrong == {}

    known = declared(META["install_requires"]) | {
        m for each in extras.EXTRAS.values() for m in each
    }
    known |= {
        "diffusers",  # of the code that `convert` copies into a folder and never imports
        "jaxlib",  # jax's
        "markupsafe",  # jinja2's
        "boto3",  # Beam's, for s3://
        "wandb",
    }
    ours = {"cv3jax", "data_pipeline", *sys.stdlib_module_names}
    files = sources("cv3jax", "data_pipeline", "configs")
    used = {
        (path, module.split(".")[0])
        for path, text in files.items()
        for module in imports(text, ".".join(path.split("/")[:-1]))
    }
    assert {(path, module) for path, module in used if module not in known | ours} == set()


def pins(*names: str) -> dict[str, str]:
    """Return the version of each package in these files."""
    lines = [line for name in names for line in (ROOT / name).read_text().splitlines()]
    return {plain_name(line): line.split("==")[1] for line in lines if "==" in line}


def test_every_extra_is_named_by_the_constraints_that_it_was_tested_with():
    heads = [
        line
        for path in ROOT.glob("constraints*.txt")
        for line in path.read_text().splitlines()
        if line.startswith("#")
    ]
    named = re.findall(r"\.\[([\w,-]+)\]", "\n".join(heads))
    assert {extra for each in named for extra in each.split(",")} == META["extras_require"].keys()


def test_what_an_extra_of_jax_asks_for_is_not_refused_by_the_constraints():
    """The install of `.[tpu]` fails where the constraints pin another libtpu than JAX names."""
    pinned, asked = pins("constraints.txt"), importlib.metadata.requires("jax")
    for extra in ("tpu", "cuda13"):
        for one in map(Requirement, asked):
            if one.marker is not None and one.marker.evaluate({"extra": extra}):
                version = pinned.get(plain_name(one.name))
                assert version is None or version in one.specifier, f"[{extra}]: {one}"


def test_every_requirement_is_bounded_and_the_tested_version_fits():
    pinned = pins("constraints.txt", "constraints-gpu.txt", "constraints-tpu.txt")
    asked = [*META["install_requires"], *chain(*META["extras_require"].values())]
    for requirement in map(Requirement, asked):
        if requirement.name == "cv3jax":
            assert requirement.extras <= META["extras_require"].keys()
        else:
            assert {each.operator for each in requirement.specifier} == {">=", "<"}, requirement
            assert pinned[plain_name(requirement.name)] in requirement.specifier, requirement
