"""Test that the API draws in tiles what does not fit as a whole, as the command does."""

import numpy as np
import pytest

from cv3jax.api.result import Pictures
from cv3jax.cascade import memory
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.cascade.upscaling import Upscaled

SIDE = 256
IMAGE = np.zeros((SIDE // 2, SIDE // 2, 3), np.uint8)


@pytest.fixture
def asked(pipe, monkeypatch):
    """List what is to be drawn and enlarged, which then is not."""
    asked = []

    def draw(engine, request, width, watched):
        asked.append(request.relay.tile)
        assert request.base.tile == request.relay.tile
        return Pictures([], [], [], {}, {}, {}, {})

    def upscale(engine, layers, prompt, how):
        asked.append(how.settings.tile)
        return Upscaled(None, {})

    monkeypatch.setattr("cv3jax.api.cascade.draw", draw)
    monkeypatch.setattr("cv3jax.api.cascade.upscale", upscale)
    monkeypatch.setattr(memory, "taken", lambda program: program.rough)
    monkeypatch.setattr(pipe._fitting, "_kept", {})
    return asked


def needs(pipe, drawn, tile):
    """Return the fewest free bytes of a device with which these pictures fit in such tiles.

    The parameters are loaded and need none.
    """
    settings = SamplerSettings(tile=tile)
    return max(
        program.rough + memory.bytes_per_device(program.args[1:])
        for program in memory.programs(pipe._engine, drawn, settings, settings)
    )


CALLS = {
    "draw": lambda pipe, **given: pipe("a star", seed=0, size=SIDE, **given),
    "upscale": lambda pipe, **given: pipe.upscale(IMAGE, "a star", **given),
}


@pytest.mark.parametrize("call", CALLS)
def test_what_does_not_fit_is_drawn_in_the_largest_tiles_that_do(
    call, pipe, asked, monkeypatch, capsys
):
    sizes = pipe._engine.sizes(Size(SIDE, SIDE), Size(*IMAGE.shape[:2]) if call != "draw" else None)
    drawn = memory.Pictures(1, sizes, given=call != "draw")
    room = {tile: needs(pipe, drawn, tile) for tile in (0, 128, 64)}
    assert room[0] > room[128] > room[64]
    free = room[128]
    monkeypatch.setattr(memory, "room", lambda mesh: free)
    CALLS[call](pipe)
    assert asked == [128]
    (line,) = capsys.readouterr().err.splitlines()
    assert "pictures of 256×256 do not fit as a whole: drawing them in tiles of 128" in line
    with pytest.raises(ValueError, match="GB per device"):
        CALLS[call](pipe, tile=0)
    free = room[0]
    CALLS[call](pipe)  # the same call is drawn in the same way
    CALLS[call](pipe, tile=0)
    CALLS[call](pipe, tile=64)
    assert asked == [128, 128, 0, 64]
    assert not capsys.readouterr().err


def test_what_fits_is_drawn_as_a_whole_and_compiled_so(pipe, asked):
    CALLS["draw"](pipe)
    CALLS["upscale"](pipe)
    assert asked == [0, 0]


def test_compile_takes_the_tiles_of_the_call(pipe, asked, monkeypatch):
    warmed = []
    monkeypatch.setattr(
        "cv3jax.api.cascade.warm", lambda engine, request: warmed.append(request.relay.tile) or {}
    )
    drawn = memory.Pictures(1, pipe._engine.sizes(Size(SIDE, SIDE)))
    free = needs(pipe, drawn, 64)
    monkeypatch.setattr(memory, "room", lambda mesh: free)
    pipe.compile([SIDE])
    CALLS["draw"](pipe)
    assert warmed == asked == [64]
