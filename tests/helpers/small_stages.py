"""Make the arguments of a small stage's sampler."""

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.parts import build_on, unet_init
from cv3jax.cascade.stage_sampler import images_sharding
from cv3jax.distributed.mesh import batch_sharding
from cv3jax.distributed.partitioning import tree_sharding
from cv3jax.models.unet import UNet

FIELDS = {
    "channels": 32,
    "channel_mult": (1, 2),
    "res_blocks": 1,
    "depth": (0, 1),
    "mid_depth": 1,
    "head_dim": 16,
    "groups": 8,
}


def placed(mesh, kind):
    """Return (params, text, low, noise, keys, w) of two images, as a cascade gives them."""
    params = jax.jit(unet_init(build_on(None, UNet, FIELDS), 16))(jax.random.key(0))
    draws = np.random.default_rng(0)
    text, low, noise = (
        jnp.asarray(draws.normal(size=shape), jnp.float32)
        for shape in ((2, 8, 16), (2, 16, 16, 4), (2, 16, 16, 4))
    )
    keys = jax.random.split(jax.random.key(1), 2)
    if mesh is None:
        device = jax.local_devices()[0]
        params, text, low = jax.device_put((params, text, low), device)
    else:
        params = jax.device_put(params, tree_sharding(params, mesh))
        text, keys = jax.device_put((text, keys), batch_sharding(mesh))
        low, noise = jax.device_put((low, noise), images_sharding(mesh))
    return params, text, low if kind == "relay" else None, noise, keys, jnp.float32(4.0)
