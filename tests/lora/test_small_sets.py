"""Test what is made of a folder before a fine-tune: class pictures, records, feature cache.

The packaged scenes draw and encode; training on the result is what a run does.
"""

import collections
import dataclasses
import signal
from pathlib import Path

import jax
import pytest
import tiny_runs
from picture_folders import put

from cv3jax.distributed.mesh import make_mesh
from cv3jax.lora import class_pictures, features, small_sets
from cv3jax.lora.picture_settings import PictureSettings
from cv3jax.sampling.resumable import sample_many
from cv3jax.training.data import loader, open_data
from cv3jax.training.feature_cache import open_feature_cache, prepare_of
from cv3jax.training.frozen import frozen_description
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError, StoppedError
from data_pipeline.records.feature_cache import open_cache
from data_pipeline.records.records import open_records
from data_pipeline.records.repeats import read_repeats

FIXED = ("data.random_crop=False", "data.flip=False", "data.recaption=0.0", "data.max_damaged=0")


@pytest.fixture
def folder(tmp_path):
    for i, name in enumerate(("5_red_kite", "blue kite")):
        for k in range(2):
            put(tmp_path / "in" / name / f"{k}.png", 10 * i + k)
    return tmp_path / "in"


def settings_of(*fields):
    return tiny_runs.config("base", f"cascade={tiny_runs.trained('base').workdir}", *fields)


def read(path):
    return {p.name: p.read_bytes() for p in path.iterdir() if p.is_file()}


def test_latents_and_text_are_encoded_once_and_training_reads_them(folder, tmp_path, capsys):
    workdir, chosen = tmp_path / "w", PictureSettings()
    settings = settings_of(*FIXED)
    fields = small_sets.prepare(folder, workdir, settings, chosen)
    assert fields == {
        "path": str(workdir / "pictures"),
        "cache": str(workdir / "features"),
    }
    cache = open_cache(fields["cache"], open_records(fields["path"]))
    assert len(cache) == 4  # each picture once, however often it occurs
    assert cache.identity["latents"]["dtype"] == cache.identity["text"]["dtype"] == "float32"

    before = read(workdir / "features")
    capsys.readouterr()
    assert small_sets.prepare(folder, workdir, settings, chosen) == fields
    assert "0 records encoded" in capsys.readouterr().err
    assert read(workdir / "features") == before

    put(folder / "blue kite" / "2.png", 12)
    small_sets.prepare(folder, workdir, settings, chosen)
    assert "5 records encoded" in capsys.readouterr().err

    given = [f"data.{name}={value}" for name, value in fields.items()]
    settings = settings_of(*FIXED, *given, "batch.size=13")  # an epoch: 2 × 5 + 3
    records = open_data(settings.data)
    cache = open_feature_cache(settings, *frozen_description(settings), records)
    one = make_mesh(devices=jax.devices()[:1])
    batch = next(loader(settings, records, None, one, prepare_of(settings, cache)))
    assert set(batch) == {"mean", "dev", "text", "sizes"}
    shown = collections.Counter(row.tobytes() for row in batch["mean"])
    assert sorted(shown.values()) == [1, 1, 1, 5, 5]


def test_random_crops_leave_the_latents_out_and_buckets_everything():
    types, why = features.cacheable(settings_of("data.random_crop=True"))
    assert types == (None, "float32")
    assert "drawn at random" in why
    types, why = features.cacheable(settings_of(*FIXED, "data.buckets=8"))
    assert types == (None, None)
    assert "config.data.buckets" in why
    types, why = features.cacheable(settings_of(*FIXED, "data.path=a,s3://b/a"))
    assert (types, why.split(":")[0]) == ((None, None), "config.data.path")
    types, why = features.cacheable(settings_of(*FIXED, "objective.masked=True"))
    assert types == (None, "float32")
    assert "reads masks from the pictures" in why
    assert features.cacheable(settings_of(*FIXED)) == (("float32", "float32"), "")
    settings = settings_of(*FIXED)
    half = dataclasses.replace(settings, model={**settings.model, "dtype": "bfloat16"})
    assert features.cacheable(half) == (("float16", "bfloat16"), "")


def test_without_a_cache_only_the_records_are_made(folder, tmp_path):
    fields = small_sets.prepare(
        folder, tmp_path / "w", settings_of(*FIXED), PictureSettings(cache=False)
    )
    assert fields == {"path": str(tmp_path / "w" / "pictures")}
    assert not (tmp_path / "w" / "features").exists()


class Drawn:
    """Draw class pictures without a network: their seeds are their colours."""

    def __init__(self, monkeypatch):
        self.calls = []
        monkeypatch.setattr(class_pictures, "sample_many", self.sample)

    def sample(self, source, pictures, out, devices, share):
        self.calls.append((source, pictures, devices, share))
        out.mkdir(parents=True, exist_ok=True)
        lines = pictures.prompts.read_text().splitlines()
        for i in range(len(lines)):
            put(out / f"{i:05d}_class_{i}.png", 500 + i, side=32)
        return {"left": 0}


def test_class_pictures_are_of_the_fine_tuned_checkpoint_and_have_the_class_prompt(
    folder, tmp_path, monkeypatch
):
    drawn = Drawn(monkeypatch)
    chosen = PictureSettings(class_prompt="a kite", class_pictures=3, cache=False)
    settings = settings_of(*FIXED)
    records = open_records(small_sets.prepare(folder, tmp_path / "w", settings, chosen)["path"])
    ((source, pictures, _, _),) = drawn.calls
    assert source == tiny_runs.trained("base").workdir / "cascade"
    assert pictures.size == (settings.data.whole_side, settings.data.whole_side)
    assert pictures.num == 1
    captions = [record["caption"] for record in records]
    assert captions == ["red kite"] * 2 + ["blue kite"] * 2 + ["a kite"] * 3
    repeats = read_repeats(tmp_path / "w" / "pictures", 7)
    assert repeats[:4].sum() == repeats[4:].sum()  # the loss's two parts have one weight
    assert list(repeats[:4] // repeats[3]) == [5, 5, 1, 1]

    fewer = dataclasses.replace(chosen, class_pictures=2)
    prepared = small_sets.prepare(folder, tmp_path / "w", settings, fewer)
    assert len(open_records(prepared["path"])) == 6
    assert len(drawn.calls[-1][1].prompts.read_text().splitlines()) == 3  # the plan stays


def test_a_signal_while_class_pictures_are_drawn_ends_the_command(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(class_pictures, "sample_many", lambda *given: {"left": 2})
    chosen = PictureSettings(class_prompt="a kite", class_pictures=3, cache=False)
    with pytest.raises(StoppedError, match="SIGTERM: 2 class pictures left to draw") as caught:
        small_sets.prepare(folder, tmp_path / "w", settings_of(*FIXED), chosen)
    assert caught.value.signal == signal.SIGTERM
    assert not (tmp_path / "w" / "pictures").exists()


def test_class_pictures_are_really_drawn_and_more_can_be_added(tmp_path, capsys):
    settings, count = settings_of(*FIXED, "sample.steps=2"), []
    assert class_pictures.sample_many is sample_many
    for number in (2, 3, 3):
        chosen = PictureSettings(class_prompt="a red star", class_pictures=number)
        prior = class_pictures.draw_class_pictures(settings, chosen, tmp_path)
        found = sorted(prior.folder.glob("*.png"))
        assert len(found) == prior.count == number
        count.append([path.stat().st_mtime_ns for path in found])
    assert count[1] == count[2]
    assert capsys.readouterr().out == ""
    assert class_pictures.draw_class_pictures(settings, PictureSettings(), tmp_path) is None


def test_a_checkpoint_that_cannot_draw_is_refused(tmp_path):
    chosen = PictureSettings(class_prompt="a red star", class_pictures=1)
    settings = settings_of(*FIXED, f"cascade={tiny_runs.trained('vae').workdir}")
    with pytest.raises(InputError, match="has no base stage"):
        class_pictures.draw_class_pictures(settings, chosen, tmp_path)


@pytest.mark.parametrize("place", ["in", "in/w", "link/w"])
def test_a_workdir_among_the_pictures_is_refused(place, folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(InputError, match=r"is inside --pictures .* give another"):
        small_sets.prepare(folder, tmp_path / place, settings_of(*FIXED), PictureSettings())


def test_a_run_that_holds_the_workdir_keeps_its_pictures(folder, tmp_path):
    settings, chosen = settings_of(*FIXED), PictureSettings(cache=False)
    small_sets.prepare(folder, tmp_path / "w", settings, chosen)
    before = read(tmp_path / "w" / "pictures")
    put(folder / "blue kite" / "2.png", 12)
    with locks.hold(tmp_path / "w"), pytest.raises(InputError, match="is in use by"):
        small_sets.prepare(folder, tmp_path / "w", settings, chosen)
    assert read(tmp_path / "w" / "pictures") == before
    small_sets.prepare(folder, tmp_path / "w", settings, chosen)
    assert read(tmp_path / "w" / "pictures") != before


def test_records_are_taken_as_they_are(folder, tmp_path):
    settings, chosen = settings_of(*FIXED), PictureSettings(cache=False)
    made = small_sets.prepare(folder, tmp_path / "w", settings, chosen)["path"]
    assert small_sets.prepare(Path(made), tmp_path / "v", settings, chosen) == {"path": made}
    with_class = dataclasses.replace(chosen, class_prompt="a kite")
    with pytest.raises(InputError, match=r"pictures\.class_prompt = a kite: .* holds records"):
        small_sets.prepare(Path(made), tmp_path / "v", settings, with_class)
