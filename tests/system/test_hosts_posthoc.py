"""Test that two processes with sharded parameters keep the averages that one process keeps."""

import jax
import many_runs
import numpy as np

from cv3jax.checkpoints import streaming
from cv3jax.distributed.mesh import make_mesh
from cv3jax.optim import power_ema
from cv3jax.training import posthoc

STEPS, KEPT = 4, 2


def test_two_processes_keep_the_averages_of_one(tmp_path):
    alone, two = tmp_path / "alone", tmp_path / "two"
    many_runs.run(alone, STEPS, make_mesh(data=2, fsdp=4), posthoc=KEPT)
    ended = many_runs.start(two, STEPS, posthoc=KEPT)
    assert [code for code, _ in ended] == [0, 0], ended
    assert posthoc.steps(two) == posthoc.steps(alone) == [2, 4]
    for step in (2, 4):
        trees = []
        for width in power_ema.WIDTHS:
            ours, theirs = (
                jax.tree.map(
                    lambda leaf: leaf.read(),
                    streaming.open_tree(
                        workdir / posthoc.FOLDER / str(step) / posthoc.name_of(width)
                    ),
                    is_leaf=lambda leaf: isinstance(leaf, streaming.Leaf),
                )
                for workdir in (two, alone)
            )
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
            trees.append(np.concatenate([leaf.ravel() for leaf in jax.tree.leaves(ours)]))
        assert not np.allclose(*trees, atol=1e-6)  # the two widths differ
