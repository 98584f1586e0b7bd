"""Softmax attention for CPUs: a few heads at a time, so that their logits stay in the cache.

XLA computes all heads' logits at once and normalises them before the second product. Here the
second product comes first, and its result [S, D] is divided. The backward pass computes the logits
again from the log of their sum (FlashAttention, arXiv 2205.14135, by heads instead of blocks of
positions). No more than `CACHED` bytes of logits exist at a time. docs/benchmarks.md has what it
saves.
"""

import jax
import jax.numpy as jnp

CACHED = 8 * 2**20  # bytes of float32 logits of the heads that are computed at once


@jax.custom_vjp
def by_heads(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Return attention of q [B, S, N, D] over k and v [B, L, N, D], [B, S, N, D] in q's dtype.

    The scale is D^-1/2, and the softmax is in float32. It is differentiable in reverse only.
    """
    return _forward(q, k, v)[0]


def _forward(q: jax.Array, k: jax.Array, v: jax.Array) -> tuple[jax.Array, tuple]:
    queries, keys, values = (_heads(x) for x in (_scaled(q), k, v))

    def group(q, k, v):
        logits = _product("nsd,nld->nsl", q, k)
        top = logits.max(-1, keepdims=True)
        p = jnp.exp(logits - top)
        total = p.sum(-1, keepdims=True)
        return _product("nsl,nld->nsd", p.astype(v.dtype), v) / total, top + jnp.log(total)

    out, log_total = _in_groups(group, queries, keys, values)
    return _positions(out.astype(q.dtype), q.shape), (queries, keys, values, out, log_total)


def _backward(kept: tuple, g: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    queries, keys, values, out, log_total = kept
    dtype, dim = queries.dtype, queries.shape[-1]
    g_heads = _heads(g)
    # what the softmax's normalisation takes from each row's gradient
    along = (g_heads * out).sum(-1, keepdims=True)

    def group(q, k, v, g, log_total, along):
        with jax.named_scope(RECOMPUTED):  # `flops` counts it as recomputed by this name
            logits = _product("nsd,nld->nsl", q, k)
        p = jnp.exp(logits - log_total)
        d_logits = (p * (_product("nsd,nld->nsl", g, v) - along)).astype(dtype)
        return (
            _product("nsl,nld->nsd", d_logits, k) * dim**-0.5,
            _product("nsl,nsd->nld", d_logits, q),
            _product("nsl,nsd->nld", p.astype(dtype), g),
        )

    dq, dk, dv = _in_groups(group, queries, keys, values, g_heads, log_total, along)
    shape = (g.shape[0], keys.shape[1], *g.shape[2:])
    return (
        _positions(dq.astype(dtype), g.shape),
        _positions(dk.astype(dtype), shape),
        _positions(dv.astype(dtype), shape),
    )


by_heads.defvjp(_forward, _backward)


def _in_groups(function, *operands: jax.Array) -> tuple[jax.Array, ...]:
    """Apply `function` to groups of heads [B N, ...], as large as `CACHED` allows.

    Returns its outputs [B N, ...].
    """
    queries, keys = operands[0], operands[1]
    count = len(queries)
    most = max(1, CACHED // (4 * queries.shape[1] * keys.shape[1]))
    size = max(size for size in range(1, min(count, most) + 1) if count % size == 0)
    if size == count:
        return function(*operands)
    groups = jax.lax.map(
        lambda group: function(*group),
        tuple(x.reshape(count // size, size, *x.shape[1:]) for x in operands),
    )
    return tuple(x.reshape(count, *x.shape[2:]) for x in groups)


def _product(equation: str, a: jax.Array, b: jax.Array) -> jax.Array:
    return jnp.einsum(equation, a, b, preferred_element_type=jnp.float32)


def _scaled(q: jax.Array) -> jax.Array:
    return (q.astype(jnp.float32) * q.shape[-1] ** -0.5).astype(q.dtype)


def _heads(x: jax.Array) -> jax.Array:
    """Reshape [B, S, N, D] to [B N, S, D]."""
    return x.swapaxes(1, 2).reshape(-1, x.shape[1], x.shape[3])


def _positions(x: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Reshape [B N, S, D] to `shape` [B, S, N, D]."""
    batch, length, heads, dim = shape
    return x.reshape(batch, heads, length, dim).swapaxes(1, 2)


# jax.checkpoint's own name scope for what it computes a second time
RECOMPUTED = "rematted_computation"
