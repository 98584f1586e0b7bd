"""Test the autoencoder's attention by rows, for images whose logits would not fit in memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.extend import core

from cv3jax.models import vae
from cv3jax.models.layers import attend


def logits(function, *args) -> int:
    """Return the elements of the largest array in a function's program."""
    found = []

    def visit(jaxpr):
        for equation in jaxpr.eqns:
            found.extend(out.aval.size for out in equation.outvars)
            for inner in core.jaxprs_in_params(equation.params):
                visit(inner)

    visit(jax.make_jaxpr(function)(*args).jaxpr)
    return max(found)


def test_rows_one_after_the_other_give_what_all_at_once_do():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 6 * 5, 1, 8)) for i in range(3))
    np.testing.assert_allclose(
        vae.attend_by_rows(q, k, v, 6), attend(q, k, v), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize(("side", "most"), [(128, 128**4), (256, 256**3)])
def test_the_logits_of_a_large_image_never_exist(side, most):
    attention = vae.PixelAttention(groups=1, dtype=jnp.float32)
    x = jax.ShapeDtypeStruct((1, side, side, 2), jnp.float32)
    params = jax.eval_shape(attention.init, jax.random.key(0), x)
    assert logits(attention.apply, params, x) == most
