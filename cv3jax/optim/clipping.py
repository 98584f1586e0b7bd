"""Gradients clipped to a global norm, by one factor that the update applies as it reads them.

optax divides every gradient by the norm and multiplies it by the limit. XLA does not compute a
division twice, and adam reads a gradient twice, so the clipped gradients of the whole model were
written to memory and read again. A product with one number is computed again wherever it is read.
"""

import jax
import jax.numpy as jnp
import optax


def clip_by_global_norm(most: float) -> optax.GradientTransformation:
    """Return a clip of gradients to a global norm of at most `most`.

    It differs from optax.clip_by_global_norm by rounding alone, and has its state, so that older
    optimizer states load. Gradients within the limit stay as they are, bit for bit. Of a norm that
    is not a number all become not a number, as they do there.
    """

    def clipped(updates, params):
        norm = optax.tree.norm(updates)
        factor = jnp.where(norm < most, 1.0, most / norm)
        return jax.tree.map(lambda x: x * factor.astype(x.dtype), updates)

    return optax.stateless(clipped)
