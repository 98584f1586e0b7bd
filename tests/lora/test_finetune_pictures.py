"""Test what `cv3jax finetune` makes of --pictures before it trains, without the training."""

import re

import lora_runs
import pytest
import tiny_runs
import yaml
from picture_folders import put

from cv3jax.commands import finetune
from cv3jax.lora import run as running
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import open_records


def argv(workdir, pictures, *fields):
    """Return the arguments of the command for adapters of the tiny base."""
    apart = ("--config.cascade=", "--config.data.path=")
    given = [x for x in lora_runs.argv(workdir, *fields) if not x.startswith(apart)]
    base = tiny_runs.trained("base").workdir
    return [*given, "--checkpoint", str(base), "--pictures", str(pictures)]


@pytest.fixture
def trained(monkeypatch):
    """Return what the command would train: (settings, workdir, the source of config.yaml)."""
    calls = []

    def run(settings, workdir, resume_from, allowed, source, scorers):
        calls.append((settings, workdir, source))
        return {"stage": "base", "steps": 1, "seconds": 1.0}

    monkeypatch.setattr(running, "run", run)
    return calls


def test_a_folder_becomes_records_and_features_which_the_run_reads(trained, tmp_path):
    put(tmp_path / "in" / "3_red_kite" / "a.png", 1)
    put(tmp_path / "in" / "3_red_kite" / "b.png", 2)
    workdir = tmp_path / "w"
    finetune.main(argv(workdir, tmp_path / "in", "pictures.trigger=zwx", "data.zoom=(1.0,1.0)"))
    ((settings, place, source),) = trained
    assert place == workdir
    data = settings.stage.data
    assert (data.path, data.cache) == (str(workdir / "pictures"), str(workdir / "features"))
    assert settings.stage.json["data"]["path"] == data.path  # what a resumed run compares
    assert {"data.path", "data.cache", "pictures.trigger"} <= source.own.keys()
    assert [record["caption"] for record in open_records(data.path)] == 2 * ["zwx red kite"]
    assert yaml.safe_load(yaml.safe_dump(settings.stage.json))["pictures"]["trigger"] == "zwx"


def test_records_are_read_where_they_are(trained, tmp_path):
    finetune.main(argv(tmp_path / "w", tiny_runs.scenes(), "pictures.cache=False"))
    ((settings, _, _),) = trained
    assert settings.stage.data.path == str(tiny_runs.scenes())
    assert settings.stage.data.cache is None


def test_a_folder_that_is_not_there_is_refused_before_anything_is_written(trained, tmp_path):
    with pytest.raises(InputError, match=r"--pictures .*none is no folder"):
        finetune.main(argv(tmp_path / "w", tmp_path / "none"))
    with pytest.raises(InputError, match=r"config\.pictures\.repeats = 0: must be 1\.\.1000"):
        finetune.main(argv(tmp_path / "w", tiny_runs.scenes(), "pictures.repeats=0"))
    assert not trained
    assert not (tmp_path / "w").exists()


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("lora.targets=nothing", "'nothing' is no layer of this model"),
        ("model.channels=32", "its base differs from config.model: channels is 16"),
        ("objective.prediction=eps", "give --config.objective.prediction=v"),
    ],
)
def test_what_a_run_would_refuse_is_refused_before_pictures_are_prepared(
    field, says, trained, tmp_path
):
    put(tmp_path / "in" / "red_kite" / "a.png", 1)
    with pytest.raises(InputError, match=re.escape(says)):
        finetune.main(argv(tmp_path / "w", tmp_path / "in", field))
    assert not trained
    assert not (tmp_path / "w").exists()
