"""Test that pictures which do not fit as a whole are drawn in the largest tiles that do."""

import dataclasses

import pytest

from cv3jax.cascade import memory
from cv3jax.cascade.automatic_tiles import settings_that_fit, tiles_of
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.checkpoints import cascades

DESCRIPTION = cascades.read_cascade("scenes_teacher")[1]  # its relay was trained on 128²
SIZES = tuple(Size(64 << n, 96 << n) for n in range(5))  # to 1024×1536


@pytest.fixture
def cascade(monkeypatch):
    """Return a cascade of shapes whose programs take what they are roughly expected to."""
    monkeypatch.setattr(memory, "taken", lambda program: program.rough)
    return memory.planned(DESCRIPTION, (), None, "auto")


def needs(cascade, tile):
    """Return the fewest bytes of a device that hold the pictures in such tiles."""
    pictures, settings = memory.Pictures(1, SIZES), SamplerSettings(tile=tile)
    held = memory.bytes_per_device(cascade.params)
    return max(
        held + program.rough + memory.bytes_per_device(program.args[1:])
        for program in memory.programs(cascade, pictures, settings, settings)
    )


@pytest.mark.parametrize("tile", [512, 256, 128])
def test_the_largest_tile_that_fits_is_taken_and_named(tile, cascade, monkeypatch, capsys):
    room = needs(cascade, tile)
    monkeypatch.setattr(memory, "room", lambda mesh: room)
    given = SamplerSettings(guidance=2.0)
    base, relay = settings_that_fit(cascade, memory.Pictures(1, SIZES), given)
    assert base == dataclasses.replace(given, tile=tile)
    assert relay == SamplerSettings(tile=tile)
    (line,) = capsys.readouterr().err.splitlines()
    assert f"pictures of 1024×1536 do not fit as a whole: drawing them in tiles of {tile}" in line


def test_what_fits_as_a_whole_stays_whole(cascade, monkeypatch, capsys):
    room = needs(cascade, 0)
    monkeypatch.setattr(memory, "room", lambda mesh: room)
    whole = settings_that_fit(cascade, memory.Pictures(1, SIZES))
    assert whole == (SamplerSettings(), SamplerSettings())
    assert not capsys.readouterr().err
    monkeypatch.setattr(memory, "room", lambda mesh: room - 1)
    assert settings_that_fit(cascade, memory.Pictures(1, SIZES)) != whole


def test_where_no_tiles_are_wanted_none_are_taken(cascade, monkeypatch):
    room = needs(cascade, 128)
    monkeypatch.setattr(memory, "room", lambda mesh: room)
    whole = SamplerSettings(whole=True)
    with pytest.raises(memory.NoRoomError, match="GB per device") as raised:
        settings_that_fit(cascade, memory.Pictures(1, SIZES), whole, whole)
    assert "tiles of" not in str(raised.value)


def test_where_nothing_fits_the_line_says_so(cascade, monkeypatch):
    room = needs(cascade, 128) - 1
    monkeypatch.setattr(memory, "room", lambda mesh: room)
    with pytest.raises(memory.NoRoomError, match="; tiles of 512, 256, 128 pixels do not fit"):
        settings_that_fit(cascade, memory.Pictures(1, SIZES))
    small = memory.Pictures(1, SIZES[:1])
    monkeypatch.setattr(memory, "room", lambda mesh: 1)
    with pytest.raises(memory.NoRoomError) as e:
        settings_that_fit(cascade, small)
    assert "tiles" not in str(e.value)


def test_a_tile_that_was_given_is_not_replaced(cascade, monkeypatch):
    room = needs(cascade, 128)
    monkeypatch.setattr(memory, "room", lambda mesh: room)
    given = SamplerSettings(tile=512)
    with pytest.raises(memory.NoRoomError):
        settings_that_fit(cascade, memory.Pictures(1, SIZES), given, given)


def test_tiles_are_smaller_than_the_picture(cascade):
    sides = {size: tiles_of(cascade, memory.Pictures(1, (size,))) for size in SIZES}
    assert list(sides.values()) == [[], [128], [256, 128], [512, 256, 128], [512, 256, 128]]
