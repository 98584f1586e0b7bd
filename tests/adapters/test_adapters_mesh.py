"""Test adapters in parameters that several devices share: the same values, where they were."""

import adapters
import jax
import numpy as np
import random_cascades as rc
from tiny_runs import split_small

from cv3jax.adapters.applied import Applied, Loras
from cv3jax.checkpoints.streaming import walk
from cv3jax.distributed.mesh import make_mesh
from cv3jax.serving.engine.adapters import ParamSets

KNOWN = rc.description()
STAGE = KNOWN.stages["base"]
ADAPTERS = {
    "plain": adapters.of_stage(STAGE, every=9, size=0.3),
    "dora": adapters.of_stage(STAGE, every=12, size=0.3, dora=True, seed=1),
}
APPLIED = {
    name: Applied(one, "base", 0.5, f"{name}.safetensors", name) for name, one in ADAPTERS.items()
}


def test_eight_devices_have_the_values_of_one():
    one = Loras(list(APPLIED.values()), KNOWN).change(rc.cascade()).params["base"]
    with split_small():
        cascade = rc.cascade(make_mesh(fsdp=4, tensor=2))
        before = {path: leaf.sharding for path, leaf in walk(cascade.params["base"])}
        sets = ParamSets(cascade, APPLIED, 1)
        sets.compile()
        served = sets.of("base", tuple((name, 0.5) for name in APPLIED))
        shared = Loras(list(APPLIED.values()), KNOWN).change(cascade).params["base"]
    assert any(not sharding.is_fully_replicated for sharding in before.values())
    for made in (shared, served):
        for (path, a), (_, b) in zip(walk(made), walk(one), strict=True):
            np.testing.assert_allclose(np.asarray(a), np.asarray(b), atol=1e-6)
            assert a.sharding == before[path]
    assert len(jax.devices()) == 8
