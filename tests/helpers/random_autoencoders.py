"""Autoencoders of a few channels whose parameters are all random.

As they are initialised, the last convolution of each block is zero and would hide what comes before
it.
"""

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.models.vae import Autoencoder


def random_params(vae: Autoencoder) -> dict:
    """Return the parameters: kernels that keep the variance, scales and biases about 0.3."""
    rng = np.random.default_rng(0)
    pixels = jnp.zeros((1, vae.factor, vae.factor, 3))
    shapes = jax.eval_shape(vae.init, jax.random.key(0), pixels)["params"]

    def filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        kernel = len(leaf.shape) > 1
        mean, spread = (0, np.prod(leaf.shape[:-1]) ** -0.5) if kernel else (0.3, 0.5)
        return jnp.asarray(rng.normal(mean, spread, leaf.shape), jnp.float32)

    return jax.tree.map(filled, shapes)
