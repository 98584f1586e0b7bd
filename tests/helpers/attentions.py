"""Run attention kernels on random arrays, compare their outputs and inspect their programs."""

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.distributed.mesh import make_mesh
from cv3jax.kernels.attention import make_attend


def one_device():
    return make_mesh(devices=jax.devices()[:1])


def splash(mesh, **options):
    return make_attend(
        "splash",
        "tpu",
        mesh,
        **{"head_dim": 64, "dtype": jnp.float32, "interpret": True, **options},
    )


def heads(mesh, dtype="float32"):
    return make_attend("heads", "cpu", mesh, head_dim=16, dtype=dtype)


def with_gradients(attend):
    """Return a function (q, k, v, cotangent) → (attention, gradients of q, k, v)."""

    def run(q, k, v, g):
        out, back = jax.vjp(attend, q, k, v)
        return out, *back(g)

    return run


def draw(batch, queries, keys, heads, dim=64, dtype=jnp.float32):
    q, g, k, v = (
        jax.random.normal(jax.random.key(i), (batch, queries if i < 2 else keys, heads, dim), dtype)
        for i in range(4)
    )
    return q, k, v, g


def assert_close(ours, theirs, within):
    """Check that each array is within a share of its largest value."""
    for name, a, b in zip(("out", "q", "k", "v"), ours, theirs, strict=True):
        a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
        assert np.abs(a - b).max() <= within * np.abs(b).max(), name


def primitives(jaxpr) -> list:
    """Return the equations of a jaxpr and of the jaxprs inside it."""
    found = []
    for equation in jaxpr.eqns:
        found.append(equation)
        for value in equation.params.values():
            for inner in value if isinstance(value, (tuple, list)) else [value]:
                inner = getattr(inner, "jaxpr", inner)
                found += primitives(inner) if hasattr(inner, "eqns") else []
    return found


def calls(attend, *shape, **options) -> list:
    """Return the Pallas calls in attention and gradients of such inputs."""
    jaxpr = jax.make_jaxpr(with_gradients(attend))(*jax.eval_shape(lambda: draw(*shape, **options)))
    return [
        equation for equation in primitives(jaxpr.jaxpr) if equation.primitive.name == "pallas_call"
    ]
