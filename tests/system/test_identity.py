"""Test what benchmarks/identity.py calls identical, and how it names a difference."""

import importlib
import json
import shutil
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

ROOT = Path(__file__).parents[2]
TREE = {"params": {"kernel": jnp.arange(6.0)}, "step": jnp.int32(3)}
RECORDS = "records-train.array_record-00000-of-00001"


@pytest.fixture
def identity(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("identity")


@pytest.fixture(scope="module")
def left(tmp_path_factory) -> Path:
    """Return a folder with one of each kind of output of a run."""
    folder = tmp_path_factory.mktemp("left")
    save(folder / "cascade" / "t5", TREE)
    (folder / "cascade" / "t5" / "tokenizer").mkdir()
    (folder / "cascade" / "t5" / "tokenizer" / "tokenizer.json").write_text("{}")
    write(folder / RECORDS, b"one", b"two")
    np.savez(folder / "references.npz", latents=np.zeros(3, np.float32))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 0.5, "seconds": 1.0}\n')
    (folder / "cascade.json").write_text('{"format": 2, "vae": "0a", "images_per_second": 1.0}\n')
    (folder / "picture.png").write_bytes(b"PNG")
    return folder


@pytest.fixture
def copy(left, tmp_path) -> Path:
    return shutil.copytree(left, tmp_path / "copy")


def save(path: Path, tree: dict) -> None:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)


def write(path: Path, *records: bytes) -> None:
    writer = ArrayRecordWriter(str(path), "group_size:1")
    for record in records:
        writer.write(record)
    writer.close()


def test_what_differs_from_run_to_run_is_no_difference(identity, left, copy):
    (copy / "metrics.jsonl").write_text('{"seconds": 2.0, "loss": 0.5, "step": 1}\n')
    (copy / "cascade.json").write_text('{"images_per_second": 9.0, "vae": "0b", "format": 2}\n')
    (copy / "tensorboard").mkdir()
    counts, difference = identity.compared(left, copy)
    assert not difference
    wanted = {"arrays": 4, "records": 2, "pictures": 1, "lines": 1, "others": 1}
    assert counts == wanted  # the tokenizer's file counts with its part's arrays


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("metrics.jsonl", {"step": 1, "loss": 0.5000001}, "metrics.jsonl: line 1 differs"),
        ("cascade.json", {"format": 1}, "cascade.json: content differs"),
        ("picture.png", {}, "picture.png: content differs"),
        ("more.md", {}, "more.md was not there before"),
        ("cascade/t5/tokenizer/tokenizer.json", {"a": 1}, "cascade/t5: tokenizer.json differs"),
    ],
)
def test_a_file_that_differs_is_named(name, content, said, identity, left, copy):
    (copy / name).write_text(json.dumps(content))
    assert identity.compared(left, copy)[1] == said


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({**TREE, "step": jnp.int32(4)}, "['step'] differs"),
        ({**TREE, "step": jnp.uint32(3)}, "['step'] differs"),
        ({**TREE, "more": jnp.ones(2)}, "['more'] was not there before"),
        ({"params": TREE["params"]}, "['step'] is not there after"),
        ({**TREE, "params": {"kernel": -jnp.arange(6.0) * -1}}, ""),
        ({**TREE, "params": {"kernel": jnp.arange(6.0).at[0].set(-0.0)}}, "['params']['kernel']"),
    ],
)
def test_arrays_are_compared_by_type_and_bytes(tree, said, identity, left, copy):
    shutil.rmtree(copy / "cascade" / "t5")
    save(copy / "cascade" / "t5", tree)
    shutil.copytree(left / "cascade" / "t5" / "tokenizer", copy / "cascade" / "t5" / "tokenizer")
    difference = identity.compared(left, copy)[1]
    assert difference.startswith(f"cascade/t5: {said}") if said else not difference


def test_records_are_compared_by_their_bytes(identity, left, copy):
    (copy / RECORDS).unlink()
    write(copy / RECORDS, b"one", b"tow")
    assert identity.compared(left, copy)[1] == f"{RECORDS}: record 1 differs"


def test_what_is_no_checkout_is_refused(identity, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["identity.py", "--before", str(tmp_path), "--after", "."])
    with pytest.raises(SystemExit) as ended:
        identity.main()
    assert ended.value.code == 2
    assert f"--before: {tmp_path} is no checkout" in capsys.readouterr().err
