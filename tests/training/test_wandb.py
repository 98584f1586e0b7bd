"""Test what Weights & Biases gets of a run, by its own client in offline mode."""

import json
import struct

import numpy as np
import pytest
import wandb
from wandb.proto.wandb_internal_pb2 import Record

from cv3jax.training import wandb_run
from cv3jax.training.metrics import MetricsLog
from cv3jax.training.wandb_run import WandbRun
from data_pipeline.io.errors import InputError

CONFIG = {"stage": "base", "optim": {"lr": 1e-4}}
IMAGE = np.zeros((4, 6, 3), np.uint8)


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    yield
    wandb.teardown()


def records(path):
    """Yield the records of a .wandb file: pieces in blocks of 32 KiB, after 7 bytes."""
    data, at, held = path.read_bytes(), 7, b""
    while at + 7 <= len(data):
        left = 2**15 - at % 2**15
        if left < 7:
            at += left
            continue
        size, kind = struct.unpack("<HB", data[at + 4 : at + 7])
        held += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last piece
            yield Record.FromString(held)
            held = b""


def sittings(workdir):
    """Return for each sitting (the run's record, its configuration, its lines)."""
    wandb.teardown()  # its own process writes the files, and has written them when it has ended
    found = []
    for path in sorted(workdir.glob("wandb/offline-run-*/run-*.wandb")):
        run, config, lines = None, {}, []
        for one in records(path):
            if one.HasField("run"):
                run = one.run
                for each in one.run.config.update:
                    config[each.key or ".".join(each.nested_key)] = json.loads(each.value_json)
            if one.HasField("history"):
                items = one.history.item
                lines.append(
                    {
                        item.key or ".".join(item.nested_key): json.loads(item.value_json)
                        for item in items
                    }
                )
        found.append((run, config, lines))
    return found


def log(workdir, start, steps, project="team/cascades"):
    made = MetricsLog(
        workdir, name="base", start=start, steps=9, more=WandbRun(project, workdir, CONFIG)
    )
    for step in steps:
        made.write(step, {"loss": 1.0 / step, "grad_norm": 2.0, "note": "text"})
    made.image("preview", steps[-1], IMAGE)
    made.close()


def test_a_resumed_run_goes_on_as_the_same_one(tmp_path):
    workdir = tmp_path / "base"
    workdir.mkdir()
    log(workdir, 0, (2, 4, 6))
    log(workdir, 4, (6, 8))  # killed after 6, with a checkpoint of 4
    first, second = sittings(workdir)
    assert (
        first[0].run_id
        == second[0].run_id
        == json.loads((workdir / "wandb.json").read_text())["id"]
    )
    for (run, config, lines), steps in ((first, (2, 4, 6)), (second, (6, 8))):
        assert (run.entity, run.project, run.display_name) == ("team", "cascades", "base")
        assert config["stage"] == "base"
        assert config["optim"] == {"lr": 1e-4}
        figures = [line for line in lines if "loss" in line]
        assert [line["train_step"] for line in figures] == list(steps)
        assert [line["loss"] for line in figures] == [1.0 / step for step in steps]
        assert not any("note" in line for line in lines)
        (picture,) = [line for line in lines if any(key.startswith("preview") for key in line)]
        assert picture["train_step"] == steps[-1]


def test_another_project_is_another_run(tmp_path):
    log(tmp_path, 0, (1,))
    log(tmp_path, 0, (1,), "other")
    (a, *_), (b, *_) = sittings(tmp_path)
    assert a.run_id != b.run_id


def test_where_it_fails_later_the_training_goes_on(tmp_path, capsys, monkeypatch):
    run = WandbRun("p", tmp_path, CONFIG)

    def broken(*_):
        raise RuntimeError("no service\nmore")

    with monkeypatch.context() as patch:
        patch.setattr(run._run, "log", broken)
        run.write(1, {"loss": 1.0})
        run.write(2, {"loss": 1.0})
    run.close()
    said = capsys.readouterr().err
    assert said.count("Weights & Biases: no service; the run goes on without it") == 1


def test_what_cannot_be_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "wandb.json").write_text("[")
    with pytest.raises(InputError, match=r"wandb\.json is damaged"):
        WandbRun("p", tmp_path, CONFIG)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"config\.train\.wandb = p needs wandb.*cv3jax\[wandb\]"):
        wandb_run.check("p")
    wandb_run.check("")
