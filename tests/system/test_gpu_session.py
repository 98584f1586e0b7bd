"""Test benchmarks/gpu_session.sh: run for real at tiny size on a CPU, PyTorch's side too."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from subprocesses import environment

ROOT = Path(__file__).parents[2]
SECTIONS = ["forward", "sampling", "decode", "serving", "train"]

pytest.importorskip("torch")
pytest.importorskip("diffusers")


@pytest.fixture(scope="module")
def session(tmp_path_factory):
    """Return the folder of a session that was run in another folder, and what it said."""
    where = tmp_path_factory.mktemp("session")
    flags = ["--size", "tiny", "--device", "cpu", "--seconds", "3600", "--out", "made"]
    done = subprocess.run(
        ["bash", str(ROOT / "benchmarks/gpu_session.sh"), *flags],
        cwd=where,
        # threads of PyTorch that wait for each other take minutes on a busy machine
        env=environment(OMP_NUM_THREADS="1", PYTHON=sys.executable),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return where / "made", done.stdout


@pytest.fixture(scope="module")
def found(session):
    return json.loads((session[0] / "gpu_session.json").read_text())


def figures(found, name):
    return found["sections"][name]["figures"]


def test_the_session_has_all_sections_and_its_facts(session, found):
    folder, said = session
    assert list(found["sections"]) == SECTIONS
    assert all(one["status"].startswith("done") for one in found["sections"].values())
    for fact in ("date", "revision", "hardware", "jax", "flax", "torch", "diffusers"):
        assert found[fact]
    assert found["missing"] == {}
    table = (folder / "gpu_session.md").read_text()
    assert said.endswith(table)
    assert table.count("\n| ") == 6  # two kinds of sampling; the head has no line before it
    assert f"revision {found['revision']}" in table


@pytest.mark.parametrize("what", ["forward", "train"])
def test_the_unet_is_beside_pytorch(what, found):
    (row,) = figures(found, what)["rows"]
    assert (row["what"], row["size"], row["failed"]) == (what, "tiny", {})
    assert len(row["seconds"]["torch"]["torch"]) == len(row["seconds"]["torch"]["cv3jax"]) == 2
    assert row["difference"]["torch"] < 1e-3  # the same weights, and the same computation
    assert row["memory_bytes"]["cv3jax"] > 4 * row["parameters"]
    assert row["ratio"]["torch"][0] > 0


def test_sampling_names_the_text_apart(found):
    rows = figures(found, "sampling")["rows"]
    assert list(rows) == ["50 + 10", "4 + 1"]
    for row in rows.values():
        parts = [row["part_seconds"][part][0] for part in ("text", "base", "relay", "vae", "rest")]
        assert all(part > 0 for part in parts)
        assert sum(parts) <= row["picture_seconds"][0]
        assert row["side"] == 64
        assert row["picture_flops"]["text"] > 0
    full, few = (row["picture_flops"] for row in rows.values())
    assert full["base"] == pytest.approx(50 * 2 / 4 * few["base"], rel=0.1)  # two passes a step
    assert full["text"] == few["text"]


def test_a_large_picture_is_the_same_in_tiles(found):
    rows = figures(found, "decode")["rows"]
    assert (rows["tiles"]["side"], rows["tiles"]["tile"], rows["whole"]["tile"]) == (128, 64, None)
    assert rows["tiles"]["difference"]["largest"] <= 1  # float32, rounded to uint8
    assert rows["tiles"]["flops"] > rows["whole"]["flops"]


def test_the_server_answered_all(found):
    row = figures(found, "serving")
    assert row["answered"] == row["requests"] == 36
    assert row["errors"] == {}
    assert row["batch"] == 3
    # 4 + 1 steps, of rows in units of one shape
    lanes = row["engine"]["lanes"]
    steps = {lane: one["rows"] for lane, one in lanes.items() if "step" in lane}
    assert len(steps) == 2
    assert min(steps.values()) * 3.5 < max(steps.values())
