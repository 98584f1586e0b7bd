"""Optimizer statistics stored in bfloat16, rounded at random so that their means are right."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax


class Stored(NamedTuple):
    """The state of an optimizer whose statistics are stored in bfloat16."""

    count: jax.Array  # int32, updates done: what the rounding of the next is drawn from
    inner: Any


def stored_in_bfloat16(inner: optax.GradientTransformation) -> optax.GradientTransformation:
    """`inner`, computing in float32, its float32 statistics rounded to bfloat16 between updates:
    half the bytes.

    They are rounded up or down at random, to the right mean. Rounded to nearest, a running mean
    that changes by less than its two-hundredth an update stays where it is, and adam's second
    moment with b2 = 0.999 changes by a thousandth.
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
    """float32 → one of the two bfloat16 beside it, the nearer the likelier, so that the mean is x.

    Infinities and NaN stay.
    """
    # a bfloat16 is the upper half of a float32: what is added to the lower half carries as often as
    # it is large
    noise = jax.random.bits(key, x.shape, jnp.uint16).astype(jnp.uint32)
    bits = (jax.lax.bitcast_convert_type(x, jnp.uint32) + noise) & jnp.uint32(0xFFFF0000)
    return jnp.where(jnp.isfinite(x), jax.lax.bitcast_convert_type(bits, jnp.float32), x).astype(
        jnp.bfloat16
    )
