"""Test muon that orthogonalises less often: matrices in turns, and maps applied several times."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from states import named_leaves
from test_muon import drawn

from cv3jax.checkpoints import runs
from cv3jax.configs import common
from cv3jax.distributed import partitioning
from cv3jax.distributed.mesh import make_mesh
from cv3jax.distributed.partitioning import abstract, tree_sharding
from cv3jax.optim import muon, muon_turns
from cv3jax.training.optim_settings import OptimSettings
from cv3jax.training.state import make_tx

UPDATES = 9


@pytest.fixture(autouse=True)
def chains_of_one(monkeypatch):
    """Make each of the few small matrices of these tests a chain, so that their turns differ."""
    monkeypatch.setattr(muon, "TOGETHER", 1)


def gradients() -> list:
    """Return the gradients of some updates, each like `drawn`'s tree; the later are larger."""
    waves = range(1, UPDATES + 1)
    return [jax.tree.map(lambda x, w=w: w * x + jnp.sin(x * 9 * w), drawn()) for w in waves]


def tx_of(turns: int, renew: int) -> optax.GradientTransformation:
    optim = common.optim(lr=1.0, warmup=0).to_dict()
    own = {"kind": "muon", "turns": turns, "renew": renew, "weight_decay": 0.0, "clip": 1e9}
    return make_tx(OptimSettings(**(optim | own)), UPDATES)


def run(tx: optax.GradientTransformation, state: object, grads: list) -> tuple[list, object]:
    """Return (the updates of these gradients from `state` on, the state after them)."""
    step, found = jax.jit(tx.update), []
    for one in grads:
        update, state = step(one, state, drawn())
        found.append(update)
    return found, state


@functools.cache
def moved(turns: int, renew: int) -> list:
    tx = tx_of(turns, renew)
    return run(tx, tx.init(drawn()), gradients())[0]


def by_hand(turns: int, renew: int) -> tuple[list[dict], int]:
    """Return (the updates by name, how often one was bounded), matrix by matrix."""
    work, structure = muon_turns.Work.of(drawn(), turns * renew)
    phases = dict(zip((i for (i,) in work.members), work.phases, strict=True))
    found, bounded = [], 0
    momenta = [np.zeros(x.shape) for x in work.values]
    maps = [None] * len(momenta)
    for count, grads in enumerate(gradients()):
        out = []
        for i, grad in enumerate(np.asarray(x, np.float64) for x in jax.tree.leaves(grads)):
            momenta[i] = grad + 0.95 * momenta[i]
            x = (grad + 0.95 * momenta[i]).reshape(work.shapes[i])
            x = x.swapaxes(1, 2) if x.shape[1] < x.shape[2] else x
            turn, due = count // turns, count % turns == phases[i] % turns
            if due and (turn % renew == phases[i] // turns or turn == 0):
                maps[i] = muon.orthogonal_map(jnp.float32(x.swapaxes(1, 2) @ x))
            y = x @ np.asarray(maps[i]) if due else np.zeros_like(x)
            norm = np.linalg.norm(y, axis=(1, 2), keepdims=True)
            if renew > 1:
                bounded += np.sum(norm > x.shape[2] ** 0.5)
                y = y / np.maximum(1, norm / x.shape[2] ** 0.5)
            y = -0.2 * turns * max(x.shape[1:]) ** 0.5 * y
            y = y.swapaxes(1, 2) if work.shapes[i][1] < work.shapes[i][2] else y
            out.append(y.reshape(grad.shape))
        found.append(named_leaves(structure.unflatten(out)))
    return found, bounded


@pytest.mark.parametrize(("turns", "renew"), [(1, 1), (3, 1), (1, 3), (2, 2)])
def test_matrices_move_in_their_turns_by_the_maps_of_their_last_renewal(turns, renew):
    expected, bounded = by_hand(turns, renew)
    assert (bounded > 0) == (renew > 1)
    for ours, theirs in zip(moved(turns, renew), expected, strict=True):
        ours = named_leaves(ours)
        assert ours.keys() == theirs.keys()
        for name, value in theirs.items():
            np.testing.assert_allclose(ours[name], value, rtol=5e-3, atol=5e-3, err_msg=name)


sizes = st.tuples(
    st.integers(1, 3), st.integers(1, 4).map(lambda n: 8 * n), st.sampled_from((4, 8))
)


@settings(deadline=None)
@given(shapes=st.lists(sizes, min_size=1, max_size=20), parts=st.integers(1, 6))
def test_all_parts_of_a_period_have_about_as_much_work(shapes, parts):
    phases = muon_turns.spread([[i] for i in range(len(shapes))], shapes, parts)
    work = [k * (2 * m * n * n + 8 * n**3) for k, m, n in shapes]
    loads = [sum(work[i] for i, at in enumerate(phases) if at == phase) for phase in range(parts)]
    assert sum(loads) == sum(work)
    assert max(loads) - min(loads) <= max(work)


@pytest.mark.parametrize("stop", [4, 5])
def test_a_run_that_stops_inside_a_period_resumes_bit_for_bit(tmp_path, stop):
    tx, grads, data = tx_of(2, 2), gradients(), toy_runs.numbers()
    before, state = run(tx, tx.init(drawn()), grads[:stop])
    manager = runs.open_manager(tmp_path)
    runs.save(manager, stop, state, data, {})
    runs.finish(manager)
    like = abstract(state, jax.tree.map(lambda x: x.sharding, state))
    after, _ = run(tx, runs.restore(manager, stop, like, data), grads[stop:])
    manager.close()
    jax.tree.map(np.testing.assert_array_equal, before + after, moved(2, 2))


def test_eight_devices_move_the_matrices_as_one(monkeypatch):
    monkeypatch.setattr(partitioning, "MIN_SIZE", 8)
    tx, mesh = tx_of(2, 2), make_mesh(data=1, fsdp=8)
    placed = tree_sharding((drawn(), jax.eval_shape(tx.init, drawn())), mesh)
    assert not placed[0]["conv"].is_fully_replicated
    step = jax.jit(tx.update, in_shardings=(placed[0], placed[1], placed[0]), out_shardings=placed)
    state = jax.jit(tx.init, out_shardings=placed[1])(drawn())
    for one, alone in zip(gradients(), moved(2, 2), strict=True):
        update, state = step(one, state, drawn())
        for name, value in named_leaves(alone).items():
            ours = named_leaves(update)[name]
            np.testing.assert_allclose(ours, value, rtol=5e-3, atol=5e-3, err_msg=name)
    maps = [name for name in named_leaves(state) if "/maps/" in name]
    assert len(maps) == len(named_leaves(drawn()))
