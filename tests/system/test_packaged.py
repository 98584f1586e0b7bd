"""Test the packaged cascades.

They are found by name, stored in half precision, loaded as float32 and complete in the wheel.
"""

import ast
import importlib
import shutil
from pathlib import Path

import described
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax import recipes
from cv3jax.cascade.parts import part_shapes
from cv3jax.cascade.pipeline import load
from cv3jax.checkpoints import cascades, manifest
from cv3jax.checkpoints.description import CascadeDescription, TextDescription, VaeDescription
from cv3jax.commands import sample
from cv3jax.commands.convert import main as convert
from cv3jax.distributed.mesh import make_mesh
from cv3jax.training.parsing import parse_stage
from data_pipeline.io.errors import InputError
from data_pipeline.loading.tokenizer import train_tokenizer

ROOT = Path(__file__).parents[2]
HALF = 2.0**-11  # float16's rounding, of a value
PARTS = ("vae", "base")  # the t5's tokenizer would bring transformers, which takes seconds
MOST = 40_000_000  # bytes of all that are packaged


@pytest.fixture(scope="module")
def package_weights():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        yield importlib.import_module("package_weights")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    """Return a cascade of the tiny recipes, without a relay, with random parameters."""
    directory, c = (
        tmp_path_factory.mktemp("source"),
        parse_stage(recipes.load("scenes_base:tiny", [])),
    )
    vae = VaeDescription(recipes.to_json(recipes.load("scenes_vae:tiny", []))["model"], 1.0)
    t5 = TextDescription(c.text.description.model, 24)
    stage = described.stage(
        model={**c.json["model"], "out_channels": vae.model["z_channels"]},
        text_width=t5.model["channels"],
        steps=2,
        guidance=1.0,
    )
    description = CascadeDescription(vae, t5, {"base": stage})
    rng = np.random.default_rng(0)
    for part in ("vae", "t5", "base"):
        params = jax.tree.map(
            lambda x: rng.normal(0.0, 0.05, x.shape).astype(x.dtype), part_shapes(description, part)
        )
        cascades.save_part(directory / part, params)
    train_tokenizer(["a red star", "a blue ring"], directory / "t5" / "tokenizer", 64, 24)
    cascades.write_cascade(directory, description)
    return directory


@pytest.fixture(scope="module")
def made(package_weights, source, tmp_path_factory) -> Path:
    """Return a directory of packaged cascades with the cascade `tiny`."""
    directory = tmp_path_factory.mktemp("made") / "checkpoints"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cascades, "PACKAGED", directory)
        package_weights.main([str(source), "--name", "tiny"])
    return directory


@pytest.fixture
def packaged(made, tmp_path, monkeypatch) -> Path:
    """Use a copy of `made` as what is installed, in an empty working directory."""
    shutil.copytree(made, tmp_path / "installed")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    monkeypatch.setattr(cascades, "PACKAGED", tmp_path / "installed")
    return tmp_path / "installed"


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def error(place: Path | str) -> str:
    with pytest.raises(InputError) as refused:
        cascades.find_cascade(place)
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_a_name_is_a_cascade(packaged):
    assert cascades.packaged() == ["tiny"]
    assert cascades.find_cascade("tiny") == cascades.find_cascade(Path("tiny")) == packaged / "tiny"
    assert set(load("tiny", ("vae",)).params) == {"vae"}


def test_what_is_there_wins(packaged, source):
    shutil.copytree(source, "tiny")
    assert cascades.find_cascade("tiny") == Path("tiny")
    shutil.rmtree("tiny")
    Path("tiny").mkdir()  # such as a folder of data
    assert error("tiny").endswith(f"the installed cascade of this name is {packaged / 'tiny'}")
    assert cascades.cascade_at("tiny") is None


@pytest.mark.parametrize("path", ["other", "tiny/base", "runs/tiny", "../installed/none", "..", ""])
def test_an_unknown_name_lists_the_known_ones(path, packaged):
    assert error(path).endswith("or the name of an installed cascade: tiny")


def test_nothing_is_promised_where_nothing_is_packaged(tmp_path, monkeypatch):
    monkeypatch.setattr(cascades, "PACKAGED", tmp_path / "none")
    assert error("scenes").endswith("give a run's --workdir, or a cascade directory")


def test_commands_take_the_name(packaged):
    with pytest.raises(InputError, match="or the name of an installed cascade: tiny"):
        sample.main(["--checkpoint", "other", "--prompt", "x", "--out", "out"])
    convert(["--checkpoint", "tiny", "--to", "safetensors", "--parts", "t5", "--out", "out"])
    assert any(Path("out").rglob("*.safetensors"))


def test_halves_are_read_as_float32_wherever_they_go(packaged, source, package_weights):
    before = contents(packaged)
    mesh = make_mesh(data=1, fsdp=8)
    ours, alone, theirs = (
        load(*given).params for given in (("tiny", PARTS, mesh), ("tiny", PARTS), (source, PARTS))
    )
    for stored, one, value in zip(*map(jax.tree.leaves, (ours, alone, theirs)), strict=True):
        assert stored.dtype == one.dtype == jnp.float32
        assert stored.sharding.device_set == set(mesh.devices.flat)
        # below 6e-5 float16's steps are 6e-8
        within = HALF * np.abs(value) + 2.0**-25 if value.ndim > 1 else 0.0
        assert (np.abs(np.asarray(stored) - value) <= within).all()
        np.testing.assert_array_equal(stored, one)
    assert contents(packaged) == before  # it may be installed where nothing can be written
    assert package_weights.size(packaged) < 0.75 * package_weights.size(source)


def test_a_damaged_one_is_refused(packaged):
    largest = max((packaged / "tiny" / "base").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[1000] ^= 1
    largest.write_bytes(content)
    with pytest.raises(
        InputError,
        match=rf"tiny/base is damaged: .*{largest.name} differs from what was written",
    ):
        load("tiny", ("base",))


def test_packaging_again_changes_nothing_and_shares_what_is_the_same(
    packaged, source, package_weights, capsys
):
    before = contents(packaged / "tiny")
    with pytest.raises(
        InputError, match=r"--name tiny: .*tiny exists already; --force replaces it"
    ):
        package_weights.main([str(source), "--name", "tiny"])
    package_weights.main([str(source), "--name", "tiny", "--force"])
    package_weights.main([str(source), "--name", "tiny_teacher"])
    assert contents(packaged / "tiny") == contents(packaged / "tiny_teacher") == before
    assert sorted(path.name for path in packaged.iterdir()) == ["tiny", "tiny_teacher"]
    assert "all packaged: " in capsys.readouterr().out
    package_weights.main([str(source), "--name", "tiny", "--force", "--dtype", "bfloat16"])
    assert contents(packaged / "tiny_teacher") == before != contents(packaged / "tiny")


def test_what_cannot_be_packaged_is_refused(packaged, source, package_weights, tmp_path):
    before = contents(packaged)
    with pytest.raises(InputError, match=r"--name '\.\./x': small letters"):
        package_weights.main([str(source), "--name", "../x"])
    with pytest.raises(InputError, match="is not a checkpoint"):
        package_weights.main([str(tmp_path / "none"), "--name", "x"])
    with pytest.raises(SystemExit, match="2"):
        package_weights.main([str(source), "--name", "x", "--dtype", "int8"])
    with pytest.raises(
        InputError, match=r"--dtype float16: the vae has values up to 7e\+04, which it cannot hold"
    ):
        package_weights.rounded({"kernel": np.full((2, 2), 7e4, np.float32)}, "float16", "vae")
    assert contents(packaged) == before


def test_what_is_packaged_is_whole_and_small(package_weights):
    for name in cascades.packaged():
        directory, description = cascades.read_cascade(cascades.PACKAGED / name)
        assert {"vae", "t5"} <= set(description.parts)
        for part in description.parts:
            assert manifest.damage(directory / part) is None
        assert (directory / "t5" / "tokenizer" / "tokenizer.json").is_file()
    assert not cascades.PACKAGED.exists() or package_weights.size(cascades.PACKAGED) <= MOST
    assert [
        path.name for path in cascades.PACKAGED.glob("*") if path.name not in cascades.packaged()
    ] == []


def test_setup_names_every_file(made, tmp_path):
    """The patterns of setup.py must match each of these files.

    tests/system/test_wheel.py checks a real wheel.
    """
    call = next(
        node
        for node in ast.walk(ast.parse((ROOT / "setup.py").read_text()))
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "setup"
    )
    patterns = next(
        ast.literal_eval(keyword.value)
        for keyword in call.keywords
        if keyword.arg == "package_data"
    )["cv3jax"]
    shutil.copytree(made, tmp_path / "cv3jax" / "packaged")
    found = {
        path
        for pattern in patterns
        for path in (tmp_path / "cv3jax").glob(pattern)
        if path.is_file()
    }
    assert {str(path.relative_to(tmp_path / "cv3jax" / "packaged")) for path in found} == set(
        contents(made)
    )
