"""Muon: momentum with orthogonalised matrices, by Newton–Schulz on their small Gram matrices.

The iteration X ← X p(XᵀX) multiplies X only by polynomials of its Gram matrix. So for X [m, n], m ≥
n, all of it can be done on n×n matrices, and X is used twice: to compute XᵀX, and in the final
product. For the convolutions of a UNet (m is 9 to 27 times n) this is a sixth of the arithmetic of
the usual loop. Gram matrices of one width are processed together, a few in each chain of products.
"""

import jax
import jax.numpy as jnp
import optax

from cv3jax.distributed.partitioning import STACKED

# Coefficients of X ← X (a + b XᵀX + c (XᵀX)²), one row per iteration: the best odd quintics in turn
# (as in Polar Express, arXiv 2505.16932) for singular values in [0.01, 1], the range that AOL
# scaling (arXiv 2512.04632) gives. The values end within 1 ± 0.27; smaller ones end below that.
COEFFICIENTS = ((8.0934, -23.6204, 17.4462), (3.6366, -2.7219, 0.5365), (2.6613, -1.9772, 0.4526))

# elements of the Gram matrices whose maps are computed in one chain of products
TOGETHER = 1 << 17


def matrix_shape(path: tuple, value: jax.Array) -> tuple[int, int, int]:
    """Return (matrices, fan in, fan out) of a parameter.

    A dense parameter is [in, out], a convolution [h, w, in, out]; stacked ones have a leading layer
    axis.
    """
    stacked = any(getattr(key, "key", None) in STACKED for key in path)
    count = value.shape[0] if stacked else 1
    return count, value.size // count // value.shape[-1], value.shape[-1]


def product(a: jax.Array, b: jax.Array) -> jax.Array:
    """Return a @ b of symmetric matrices [K, n, n].

    Written as aᵀ b, because XLA's CPU backend gives that form to Eigen, which divides a stack among
    threads; a b goes to YNN, which computes a stack on one.
    """
    return a.mT @ b


def orthogonal_map(gram: jax.Array) -> jax.Array:
    """Return Q, float32 [K, n, n], with (X Q)ᵀ(X Q) ≈ 1 for gram = XᵀX [K, n, n].

    It applies AOL scaling, then the quintics.
    """
    scale = jax.lax.rsqrt(jnp.maximum(jnp.abs(gram).sum(-1), 1e-30))
    gram = gram * scale[:, None, :] * scale[:, :, None]
    q = None
    # all matrices are polynomials of one symmetric matrix: symmetric themselves, and they commute
    for i, (a, b, c) in enumerate(COEFFICIENTS):
        p = a * jnp.eye(gram.shape[-1], dtype=gram.dtype) + b * gram + c * product(gram, gram)
        q = p if q is None else product(q, p)
        if i + 1 < len(COEFFICIENTS):
            gram = product(p, product(gram, p))
    return q * scale[:, :, None]


def orthogonalize(tree):
    """Return each parameter-shaped leaf with singular values near 1 times 0.2 √max(fan in, out).

    With that factor an update has the root mean square of adam's (arXiv 2502.16982), so that one
    learning rate fits both.
    """
    leaves, structure = jax.tree.flatten_with_path(tree)
    shapes = [matrix_shape(path, value) for path, value in leaves]
    matrices = [tall(value, shape) for (_, value), shape in zip(leaves, shapes, strict=True)]
    out = [None] * len(matrices)
    for members in chains([x.shape for x in matrices]):
        q = chain_maps([matrices[i] for i in members])
        at = 0
        for i in members:
            x = matrices[i]
            x = 0.2 * max(x.shape[1:]) ** 0.5 * (x @ q[at : at + len(x)])
            out[i] = back(x, shapes[i], leaves[i][1])
            at += len(x)
    return structure.unflatten(out)


def tall(value: jax.Array, shape: tuple[int, int, int]) -> jax.Array:
    """Return a parameter of `matrix_shape` as matrices [K, m, n], m ≥ n."""
    x = value.reshape(shape)
    return x.mT if shape[1] < shape[2] else x


def back(x: jax.Array, shape: tuple[int, int, int], like: jax.Array) -> jax.Array:
    """Return matrices of `tall` in the parameter's own shape, that of `like`."""
    return (x.mT if shape[1] < shape[2] else x).reshape(like.shape)


def chain_maps(matrices: list[jax.Array]) -> jax.Array:
    """Return the orthogonal maps of a chain's matrices [K, m, n], one after the other."""
    return orthogonal_map(jnp.concatenate([x.mT @ x for x in matrices]))


def chains(shapes: list[tuple[int, int, int]]) -> list[list[int]]:
    """Return the positions of matrices [K, m, n], together where their maps are computed together.

    Those have one n. A chain's Gram matrices have at most `TOGETHER` elements, unless one leaf's
    have more.
    """
    done, open_ = [], {}
    for i, (count, _, n) in enumerate(shapes):
        size, members = open_.get(n, (0, []))
        if members and (size + count) * n * n > TOGETHER:
            done.append(members)
            size, members = 0, []
        open_[n] = (size + count, [*members, i])
    return done + [members for _, members in open_.values()]


def scale_by_muon(beta: float = 0.95) -> optax.GradientTransformation:
    """Return Nesterov momentum, orthogonalised.

    Leaves are matrices (`matrix_shape`); vectors need another optimizer.
    """
    return optax.chain(
        optax.trace(beta, nesterov=True),
        optax.stateless(lambda updates, params: orthogonalize(updates)),
    )
