"""Test the engine with tiles: pictures are those of `sample --tile`, whatever shares units."""

import numpy as np
import pytest
import random_cascades as rc
from random_cascades import drawn

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.serving.engine.opening import EngineSettings, engine_of

TILE = 16


@pytest.fixture(scope="module")
def tiled(small_cascade):
    """Return an engine that predicts, encodes and decodes the relay's pictures in tiles."""
    settings = EngineSettings((Size(32, 32),), batch=2, tile=TILE)
    engine = engine_of(small_cascade, settings, lambda line: None)
    engine.start()
    yield engine
    assert engine.stop(0.0) == 0


def generated(cascade, order, tile: int) -> np.ndarray:
    base, relay = (
        SamplerSettings(one.steps, one.guidance, one.eta, tile=tile)
        for one in (order.base, order.relay)
    )
    made = cascade.generate(
        [order.prompt], [order.seed], size=order.sizes[-1], base=base, relay=relay, final=True
    )
    return made["relay"][0]


def test_pictures_are_those_of_generate_with_the_same_tiles(tiled, small_cascade):
    order = rc.order("one", tiled.sizes[0], 5)
    (heard,) = drawn(tiled, order)
    apart = np.abs(heard.image.astype(int) - generated(small_cascade, order, TILE))
    assert apart.max() <= 1
    assert (apart > 0).mean() <= 0.001
    # tiles are an approximation, which shows: the engine did not draw the picture as a whole
    whole = generated(small_cascade, order, 0)
    assert (heard.image != whole).mean() > 0.05


def test_no_picture_in_tiles_depends_on_what_shares_its_units(tiled):
    draws = np.random.default_rng(3)
    orders = [rc.mixture(draws, tiled.sizes, f"{n}") for n in range(7)]
    alone = [drawn(tiled, order)[0].image for order in orders]
    for order, one, other in zip(orders, alone, drawn(tiled, *orders), strict=True):
        np.testing.assert_array_equal(one, other.image, err_msg=f"{order}")
