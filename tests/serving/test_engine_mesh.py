"""Test the engine on a mesh: the rows of a unit are shared by its devices."""

import math

import jax
import numpy as np
import pytest
import random_cascades as rc
from random_cascades import drawn
from tiny_runs import split_small

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.distributed.mesh import make_mesh
from cv3jax.serving.engine.opening import EngineSettings, engine_of


@pytest.mark.parametrize(
    ("axes", "size"),
    [
        ({"data": 2}, Size(32, 32)),
        ({"fsdp": 2, "tensor": 2}, Size(32, 32)),
        # twice as high, so that each device has two rows of the lowest resolution
        ({"data": 2, "tensor": 2, "context": 2}, Size(64, 32)),
    ],
    ids=str,
)
def test_pictures_of_a_mesh_are_those_of_one_device_whatever_shares_a_unit(
    small_cascade, axes, size
):
    count = math.prod(axes.values())
    mesh = make_mesh(**{"data": 1, **axes}, devices=jax.devices()[:count])
    settings = EngineSettings((size,), batch=2, mesh=mesh)
    with split_small():  # parameters over fsdp too
        engine = engine_of(rc.cascade(mesh, preview=None), settings, lambda line: None)
    engine.start()
    assert engine.capabilities["devices"] == count
    draws = np.random.default_rng(0)
    orders = [rc.mixture(draws, engine.sizes, f"{n}") for n in range(5)]
    alone = [drawn(engine, order)[0].image for order in orders]
    for order, one, other in zip(orders, alone, drawn(engine, *orders), strict=True):
        np.testing.assert_array_equal(one, other.image, err_msg=f"{order}")
    engine.stop(0.0)
    first = next(order for order in orders if order.image is None)
    base, relay = (
        SamplerSettings(each.steps, each.guidance, each.eta, strength=each.strength)
        for each in (first.base, first.relay)
    )
    made = small_cascade.generate(
        [first.prompt], [first.seed], size=first.sizes[-1], base=base, relay=relay, final=True
    )
    apart = np.abs(made["relay"][0].astype(int) - alone[orders.index(first)])
    assert apart.max() <= 1
    assert (apart > 0).mean() <= 0.03
