"""Optimizer statistics stored in bfloat16, rounded at random so that their means are right."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Stored(NamedTuple):
    """The state of an optimizer whose statistics are stored in bfloat16."""

    count: jax.Array  # int32, updates done, from which the next rounding is drawn
    inner: Any


def stored_in_bfloat16(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """Return `inner` with its float32 statistics stored in bfloat16, which halves their bytes.

    It computes in float32. Between updates the statistics are rounded up or down at random, with
    the right mean. Rounded to nearest, a running mean that changes by less than its two-hundredth
    per update would never change, and adam's second moment with b2 = 0.999 changes by a thousandth.
    """

    def down(count, state):
        leaves, structure = jax.tree.flatten(state)
        key = jax.random.fold_in(jax.random.key(0), count)
        keys = [jax.random.fold_in(key, i) for i in range(len(leaves))]
        return structure.unflatten(
            [
                round_at_random(k, x) if x.dtype == jnp.float32 else x
                for k, x in zip(keys, leaves, strict=True)
            ]
        )

    def init(params):
        count = jnp.zeros((), jnp.int32)
        return Stored(count, down(count, inner.init(params)))

    def update(updates, state, params=None):
        wide = jax.tree.map(
            lambda x: x.astype(jnp.float32) if x.dtype == jnp.bfloat16 else x, state.inner
        )
        updates, wide = inner.update(updates, wide, params)
        count = optax.safe_increment(state.count)
        return updates, Stored(count, down(count, wide))

    return optax.GradientTransformation(init, update)


def round_at_random(key: jax.Array, x: jax.Array) -> jax.Array:
    """Round float32 to one of the two neighbouring bfloat16 at random, with mean x.

    The nearer one is the likelier. Infinities and NaN stay.
    """
    # a bfloat16 is the upper half of a float32: the noise added to the lower half carries into it
    # as often as the lower half is large
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) & jnp.uint32(0xFFFF0000)
    return jnp.where(jnp.isfinite(x), jax.lax.bitcast_convert_type(bits, jnp.float32), x).astype(
        jnp.bfloat16
    )
