"""Test that `cv3jax convert` notices changed files, and names values that no model has."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
from released_files import FLAGS, converted, refused, tensors, write, write_pt

from cv3jax.weights.digests import SUMS
from cv3jax.weights.values import MOST, Values


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def vae(tmp_path_factory) -> Path:
    return write(tmp_path_factory.mktemp("weights") / "vae.safetensors", tensors("vae.safetensors"))


def test_a_given_sha256_is_compared_before_anything_is_read(vae, tmp_path, capsys):
    right, wrong = sha256(vae), "0" * 64
    converted(tmp_path / "right", "--vae", vae, "--sha256", f"vae.safetensors={right.upper()}")
    assert "--vae: vae.safetensors has the SHA-256 of --sha256" in capsys.readouterr().err
    folder = tmp_path / "wrong"
    folder.mkdir()
    for given, line in (
        (
            f"vae.safetensors={wrong}",
            rf"its SHA-256 is {right}, but --sha256 vae\.safetensors says",
        ),
        (f"{vae}={wrong}", "is damaged or another file"),
        (f"other.safetensors={right}", "no file of that name is read"),
        (f"vae.safetensors={right[1:]}", "give FILE=HEX with the 64 hexadecimal digits"),
        (right, "give FILE=HEX"),
    ):
        refused(folder, line, "--vae", vae, "--sha256", given)
    both = ("--sha256", f"vae.safetensors={right}", "--sha256", f"vae.safetensors={wrong}")
    refused(folder, "two different values", "--vae", vae, *both)
    refused(folder, "--sha256 needs", "--checkpoint", "scenes", "--to", "sat", *both[:2])


def test_a_sha256sums_beside_the_weights_is_compared(tmp_path, capsys):
    file = write(tmp_path / "vae.safetensors", tensors("vae.safetensors"))
    sums = tmp_path / SUMS
    sums.write_text(f"# a comment\n{sha256(file)} *vae.safetensors\n{'1' * 64}  another.bin\n")
    converted(tmp_path / "out", "--vae", file)
    assert "vae.safetensors has the SHA-256 of" in capsys.readouterr().err
    sums.write_text(f"{sha256(file)}  another.safetensors\n")
    converted(tmp_path / "unlisted", "--vae", file)
    assert "vae.safetensors is not in SHA256SUMS and was not compared" in capsys.readouterr().err
    folder = tmp_path / "wrong"
    folder.mkdir()
    for text, line in (
        (f"{'1' * 64}  vae.safetensors\n", rf"but .*{SUMS} says {'1' * 64}"),
        ("vae.safetensors\n", f"{SUMS}, line 1 is 'vae.safetensors'; a line has 64"),
        ("\xff", f"{SUMS} is not UTF-8"),
    ):
        sums.write_text(text, encoding="latin-1")
        refused(folder, line, "--vae", file)


@pytest.mark.parametrize("at", [0.2, 0.5, 0.9])
def test_a_changed_bit_in_a_pt_is_noticed(at, tmp_path):
    """Without the check PyTorch reads another number."""
    torch = pytest.importorskip("torch")
    file = write_pt(tmp_path / "vae.pt", tensors("vae.safetensors"))
    before = torch.load(file, weights_only=True)["module"]
    data = bytearray(file.read_bytes())
    data[int(at * len(data))] ^= 64
    file.write_bytes(data)
    after = torch.load(file, weights_only=True)["module"]
    assert any(not torch.equal(before[name], after[name]) for name in before)
    refused(tmp_path, "Bad CRC-32 for file 'vae/data/", "--vae", file)


def test_values_that_no_model_has_are_named_by_part(tmp_path, capsys):
    values = {name: value.copy() for name, value in tensors("vae.safetensors").items()}
    first, second, *_ = (name for name, value in values.items() if value.size > 8)
    values[first].flat[:2] = np.nan, np.inf
    values[second].flat[:3] = np.nan, -1e30, 1e5
    file = write(tmp_path / "vae.safetensors", values)
    converted(tmp_path / "out", "--vae", file, "--json", tmp_path / "figures.json")
    lines = capsys.readouterr().err.splitlines()
    said = [line.split(", the first")[0] for line in lines if line.startswith("vae: ")]
    assert "vae: 2 values are not a number" in said
    assert "vae: 1 value is infinite" in said
    assert "vae: 2 values are above 65,504" in said
    assert any(line.startswith("vae: the largest absolute value is 1e+30, in ") for line in lines)
    assert json.loads((tmp_path / "figures.json").read_text())["values"] == [
        line for line in lines if " first in " in line or "largest" in line
    ]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_each_type_is_looked_at_in_pieces(dtype, monkeypatch):
    import ml_dtypes

    from cv3jax.weights import values

    monkeypatch.setattr(values, "_PIECE", 4)
    array = np.ones((3, 3)).astype(getattr(ml_dtypes, dtype, dtype))
    array[2, 1], array[0, 0] = np.nan, -3
    found = Values()
    found.look("a", array)
    found.look("b", np.full(2, MOST, np.float32))
    assert found.wrong == {"not a number": (1, "a", 1)}
    assert (found.largest, found.where) == (MOST, "b")
    found = Values()
    found.look("empty", np.zeros((0, 2), np.float32))
    assert found.words() == ["the largest absolute value is 0, in no array"]


def pickled(path: Path, data: bytes, members: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("archive/data.pkl", data)
        for i in range(members):
            file.writestr(f"archive/data/{i}", b"")
    return path


def nested(depth: int) -> bytes:
    """Return a dict with a key of 2**depth values, each tuple of which holds another one twice."""
    steps = b"".join(b"h" + bytes([i]) + b"\x86q" + bytes([i + 1]) for i in range(depth))
    return b"\x80\x02}(K\x01q\x00" + steps + b"K\x01u."


@pytest.mark.parametrize(
    ("data", "members", "line"),
    [
        (nested(60), 0, "its pickle has a tuple of more than 10,000 values"),
        (b"\x80\x02}" + b"(K\x01K\x02u" * 500_000 + b".", 0, "its pickle has more than 400,000 st"),
        (b"\x80\x02h\x07.", 0, "its pickle takes what is not there"),
        (b"\x80\x02}", 0, "pickle exhausted"),
        (b"\x80\x02}.", 70_000, "70,001 members"),
    ],
)
def test_pickles_that_cost_too_much_are_refused_before_they_are_read(data, members, line, tmp_path):
    file = pickled(tmp_path / "u.pt", data, members)
    refused(tmp_path, line, "--unet", file, *FLAGS)
