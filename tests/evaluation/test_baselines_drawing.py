"""Test drawing with tiny random pipelines of the classes that the released models have."""

import json
import signal
import socket

import numpy as np
import pytest
import scored
import table_reports
import tiny_pipelines

from cv3jax.cascade.sizes import Size
from cv3jax.evaluation.baselines import drawing, models, pipelines
from cv3jax.evaluation.figures import drawing_of
from cv3jax.evaluation.pictures import examine, match
from cv3jax.evaluation.run import evaluate
from cv3jax.sampling.metadata import read_drawing
from cv3jax.sampling.png_record import read_record
from data_pipeline.io.errors import InputError, StoppedError

pytest.importorskip("diffusers")
TEXTS, SEEDS = ["a red thing", "two things"], [3, 4]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a directory of --models with tiny pipelines."""
    place = tmp_path_factory.mktemp("models")
    tiny_pipelines.write_sdxl(place / "sdxl")
    tiny_pipelines.write_lcm_unet(place / "lcm-sdxl")
    tiny_pipelines.write_stable_cascade(place / "stable-cascade")
    return place


@pytest.fixture
def offline(monkeypatch):
    """Let every connection fail."""

    def refuse(*args, **kwargs):
        raise AssertionError("something connects")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def loaded(folder, name, **given):
    model = models.open_model(name, folder, **given)
    machine = pipelines.machine_of(model)
    return pipelines.load(model, machine, pipelines.described(model, machine, "f" * 64))


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize(
    ("name", "size", "steps", "schedulers"),
    [
        ("sdxl", 32, (2,), ["EulerDiscreteScheduler"]),
        ("lcm-sdxl", 32, (2,), ["LCMScheduler"]),
        ("stable-cascade", 128, (2, 1), ["DDPMWuerstchenScheduler"] * 2),
    ],
)
def test_a_model_draws_each_picture_by_its_own_seed(folder, name, size, steps, schedulers):
    drawer = loaded(folder, name, size=Size(size, size), steps=steps)
    assert drawer.about["schedulers"] == schedulers
    assert drawer.about["versions"].keys() == {"diffusers", "torch", "transformers"}
    both = drawer.draw(TEXTS, SEEDS)
    assert both.shape == (2, size, size, 3)
    assert both.dtype == np.uint8
    assert both.std() > 1
    alone = drawer.draw(TEXTS[1:], SEEDS[1:])
    np.testing.assert_allclose(alone[0].astype(int), both[1].astype(int), atol=2)
    assert (drawer.draw(TEXTS[1:], [5])[0] != both[1]).mean() > 0.1


def test_steps_and_guidance_reach_the_pipeline(folder):
    given = {"size": Size(32, 32), "steps": (2,)}
    first = loaded(folder, "sdxl", **given).draw(TEXTS, SEEDS)
    for other in ({**given, "steps": (1,)}, {**given, "guidance": (9.0,)}):
        assert (loaded(folder, "sdxl", **other).draw(TEXTS, SEEDS) != first).any()
    guided = [
        loaded(folder, "lcm-sdxl", **given, guidance=(w,)).draw(TEXTS, SEEDS) for w in (1.0, 9.0)
    ]
    assert (guided[0] != guided[1]).any()  # by the embedding of its UNet


def test_a_pipeline_by_its_folder_is_the_named_one(folder):
    given = {"size": Size(32, 32), "steps": (2,), "guidance": (5.0,)}
    own = loaded(None, str(folder / "sdxl"), **given).draw(TEXTS, SEEDS)
    np.testing.assert_array_equal(own, loaded(folder, "sdxl", **given).draw(TEXTS, SEEDS))


def test_a_pipeline_that_needs_more_than_text_is_refused(folder):
    place = str(folder / "stable-cascade" / "decoder")
    with pytest.raises(InputError):
        loaded(None, place, size=Size(128, 128))


def test_a_size_that_a_model_cannot_draw_is_refused(folder):
    drawer = loaded(folder, "stable-cascade", size=Size(64, 64), steps=(1, 1))
    with pytest.raises(InputError, match="where --size asks for 64×64; give a size that it can"):
        drawer.draw(TEXTS, SEEDS)


class Counting:
    """A drawer without a network, which counts its batches."""

    def __init__(self, stop=lambda batch: None):
        self.batches, self.stop = 0, stop

    def draw(self, texts, seeds):
        self.batches += 1
        self.stop(self.batches)
        return np.stack([np.full((32, 32, 3), seed % 256, np.uint8) for seed in seeds])


def run(folder, out, counting, seed=7, num=2):
    model = models.open_model("sdxl", folder, Size(32, 32), (2,))
    artist = drawing.Artist(model)
    artist.__dict__["drawer"] = pipelines.Drawer(
        counting.draw, {**artist.described, "versions": {}}
    )
    return drawing.draw(drawing.Drawing(model, 4, seed), artist, scored.PROMPTS, num, out)


def test_a_stopped_run_resumes_with_the_same_files(folder, tmp_path):
    whole = run(folder, tmp_path / "whole", Counting())

    def stop(batch):
        if batch == 2:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(StoppedError, match="2 pictures left to draw; run the same command"):
        run(folder, tmp_path / "killed", Counting(stop))
    last = Counting()
    again = run(folder, tmp_path / "killed", last)
    assert last.batches == 1
    names = sorted(path.name for path in whole.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert len(names) == 10 + 2  # with the plan and the index
    assert all((whole / n).read_bytes() == (again / n).read_bytes() for n in names)
    with pytest.raises(InputError, match="holds pictures made with other values of seed"):
        run(folder, tmp_path / "killed", Counting(), seed=8)


def test_prompts_seeds_and_model_are_recorded_and_scored(folder, tmp_path, monkeypatch):
    place = run(folder, tmp_path / "o", Counting())
    entries, num = match(place, scored.PROMPTS, None)
    assert (num, [entry.seed for entry in entries]) == (2, list(range(7, 17)))
    record = read_record(place / entries[0].file)
    assert record["prompt"] == scored.TEXTS[0]
    assert record["drawn_by"]["model"] == "sdxl"
    assert (record["drawn_by"]["steps"], record["drawn_by"]["guidance"]) == ([2], [5.0])
    told = drawing_of(examine(place, entries, scored.PROMPTS, set()))
    assert told["made_by"]["drawn_by"] == record["drawn_by"]
    with pytest.raises(InputError, match="another model drew it; cv3jax evaluate --model draws"):
        read_drawing(place / entries[0].file)
    monkeypatch.setattr("cv3jax.evaluation.run.open_metric", scored.Metrics().open)
    request = scored.request(tmp_path / "r")._replace(timing=table_reports.timing(6.0))
    assert evaluate(request._replace(num=2), place)["time"]["median"] == 6.0
    assert "6.000 s for 4 pictures at once, 1.500 s each, on H200: the median of 3 batches" in (
        (tmp_path / "r" / "report.html").read_text()
    )
    assert json.loads((tmp_path / "r" / "report.json").read_text())["pictures"] == 10
