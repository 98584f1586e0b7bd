"""Test muon's update against its definition: quintics of each matrix itself, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.optim import muon

SHAPES = {
    "tall": (40, 12),
    "wide": (12, 40),
    "square": (16, 16),
    "conv": (3, 3, 8, 16),
    "narrow": (24, 6),
    "blocks": {"dense": (3, 20, 12), "wide": (2, 8, 24)},
}


def drawn():
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda shape: jnp.asarray(rng.normal(size=shape), jnp.float32),
        SHAPES,
        is_leaf=lambda x: isinstance(x, tuple),
    )


def by_definition(x):
    """Return one matrix [m, n], m ≥ n, by AOL scaling and X ← X (a + b XᵀX + c (XᵀX)²)."""
    x = x / np.sqrt(np.abs(x.T @ x).sum(-1))
    for a, b, c in muon.COEFFICIENTS:
        gram = x.T @ x
        x = x @ (a * np.eye(len(gram)) + b * gram + c * gram @ gram)
    return x


def expected(matrix):
    """Return the update of one matrix [m, n]."""
    x = np.asarray(matrix, np.float64)
    out = by_definition(x) if x.shape[0] >= x.shape[1] else by_definition(x.T).T
    return 0.2 * np.sqrt(max(x.shape)) * out


@pytest.mark.parametrize("together", [1, 1 << 17])
def test_each_matrix_is_orthogonalized_as_by_its_definition(together, monkeypatch):
    monkeypatch.setattr(muon, "TOGETHER", together)
    tree = drawn()
    out = jax.jit(lambda tree: muon.orthogonalize(tree))(tree)
    assert jax.tree.map(jnp.shape, out) == SHAPES
    pairs = [
        *((tree[name], out[name]) for name in ("tall", "wide", "square", "narrow")),
        (tree["conv"].reshape(72, 16), out["conv"].reshape(72, 16)),
        *zip(tree["blocks"]["dense"], out["blocks"]["dense"], strict=True),
        *zip(tree["blocks"]["wide"], out["blocks"]["wide"], strict=True),
    ]
    for matrix, update in pairs:
        np.testing.assert_allclose(update, expected(matrix), rtol=2e-3, atol=2e-3)


def test_matrices_of_one_width_share_chains_of_a_limited_size(monkeypatch):
    monkeypatch.setattr(muon, "TOGETHER", 4 * 16 * 16)
    shapes = [(1, 40, 16), (2, 40, 16), (3, 20, 8), (1, 16, 16), (1, 99, 16), (9, 30, 16)]
    assert sorted(muon.chains(shapes)) == [[0, 1, 3], [2], [4], [5]]


def test_the_state_is_that_of_older_checkpoints():
    tree = drawn()
    leaves = jax.tree.leaves(muon.scale_by_muon().init(tree))
    assert list(map(jnp.shape, leaves)) == list(map(jnp.shape, jax.tree.leaves(tree)))
