"""Test that the plan of a directory of pictures has the tile in which they are drawn."""

import dataclasses
import json

import golden_models
import pytest
from painter import Painter, contents

from cv3jax.cascade.sampler_settings import AS_DESCRIBED
from cv3jax.sampling import resumable
from data_pipeline.io.errors import InputError


class Tiled(Painter):
    """Draw what a painter draws, and record the tiles that it is asked for."""

    def __init__(self, stop=lambda batch: None):
        super().__init__(stop)
        self.tiles = set()

    def generate(self, prompts, seeds, *, base, relay, **options):
        self.tiles |= {base.tile, relay.tile}
        as_described = {"base": AS_DESCRIBED, "relay": AS_DESCRIBED}
        return super().generate(prompts, seeds, **as_described, **options)


class StoppedHereError(Exception):
    """End a command in the middle."""


def stop(batch):
    if batch == 3:
        raise StoppedHereError


def plan(tmp_path, name):
    return json.loads((tmp_path / name / "plan.json").read_text())


def test_a_tile_is_in_the_plan_and_resumed_with(paint, whole, tmp_path):
    assert "tile" not in json.loads(whole["plan.json"])
    painter = Tiled(stop)
    with pytest.raises(StoppedHereError):
        paint("tiled", "--seed", "7", "--tile", "64", painter=painter)
    assert plan(tmp_path, "tiled")["tile"] == 64
    for flags in (["--tile", "64"], []):  # without the flag it is the plan's
        painter = Tiled()
        paint("tiled", "--seed", "7", *flags, painter=painter)
        assert painter.tiles <= {64}
    assert contents(tmp_path / "tiled").keys() == whole.keys()


def test_another_tile_is_another_plan(paint, whole, tmp_path):
    paint("tiled", "--seed", "7", "--tile", "64", painter=Tiled())
    for name, tile in (("tiled", "96"), ("tiled", "0"), ("whole", "64")):
        before = contents(tmp_path / name)
        with pytest.raises(InputError, match="made with other values of tile;"):
            paint(name, "--seed", "7", "--tile", tile)
        assert contents(tmp_path / name) == before


def test_a_tile_that_was_chosen_is_in_the_plan_and_chosen_once(paint, tmp_path, monkeypatch):
    def choose(cascade, pictures, *settings):
        return tuple(dataclasses.replace(one, tile=96) for one in settings)

    monkeypatch.setattr(resumable, "settings_that_fit", choose)
    painter = Tiled(stop)
    with pytest.raises(StoppedHereError):
        paint("out", "--seed", "7", painter=painter)
    assert painter.tiles == {96}
    assert plan(tmp_path, "out")["tile"] == 96
    monkeypatch.setattr(resumable, "settings_that_fit", lambda *_: pytest.fail("chosen again"))
    painter = Tiled()
    assert paint("out", "--seed", "7", painter=painter)["left"] == 0
    assert painter.tiles == {96}


def test_pictures_begun_as_a_whole_are_not_continued_in_tiles(paint, tmp_path, monkeypatch):
    with pytest.raises(StoppedHereError):
        paint("out", "--seed", "7", painter=Painter(stop))
    monkeypatch.setattr(resumable.memory, "room", lambda mesh: 1)
    with pytest.raises(InputError, match="GB per device"):
        paint("out", "--seed", "7")
    assert "tile" not in plan(tmp_path, "out")


def test_tiles_that_a_stage_cannot_have_leave_nothing(paint, tmp_path):
    assert golden_models.converted("micro").exists()
    with pytest.raises(InputError, match="tile 72: give a multiple of"):
        paint("out", "--tile", "72")
    assert not (tmp_path / "out").exists()
