"""Blocks shared by the UNet and the autoencoder.

Everything is NHWC. Parameters are float32, compute is `dtype`; norms and the softmax run in float32
whatever `dtype` is. Do not rename `conv_in, conv_out`: the weight maps use these names.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Constrain = Callable[[jax.Array], jax.Array]
KV = tuple[jax.Array, jax.Array]  # keys and values of attention, each [..., B, L, N, D]
# (path of a module, its parameters as they are stored) → as it computes with them
Gather = Callable[[tuple[str, ...], Any], Any]
# names that rematerialisation policies refer to
GATHERED, BLOCK_INPUT, CONVOLVED = "gathered", "block_input", "convolved"


def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
    """Return XLA's softmax attention of q [B, S, N, D] over k and v [B, L, N, D].

    The result is [B, S, N, D]. The scale is D^-1/2, and the softmax is in float32.
    """
    return jax.nn.dot_product_attention(q, k, v)


def no_constraint(x: jax.Array) -> jax.Array:
    """Return x: the default of every `constrain` field, for models that run without a mesh."""
    return x


def block_of(
    module: type[nn.Module],
    path: tuple[str, ...],
    gather: Gather | None,
    remat: str,
    *,
    scanned: bool = False,
) -> type[nn.Module]:
    """Return `module`, gathering its own parameters and keeping what `remat` says.

    none: keep every activation for the backward pass. block: keep its input, and the result of a
    ResBlock's first convolution, which is small for what it costs. full: keep only its input (and
    the UNet does the same once more around it). offload: keep its input in the host's memory.
    Gathered parameters are never kept, since they would be those of the whole model.
    """
    policies = jax.checkpoint_policies
    if gather is not None:
        module = nn.map_variables(
            module,
            "params",
            trans_in_fn=lambda variables: {"params": gather(path, variables["params"])},
        )
    if remat == "none":
        if gather is None:
            return module
        policy = all_but_gathered
    elif remat == "offload":
        policy = policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[BLOCK_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        )
    else:
        policy = policies.save_only_these_names(CONVOLVED) if remat == "block" else None
    return nn.remat(module, prevent_cse=not scanned, policy=policy)


def all_but_gathered(primitive: Any, *_: Any, **params: Any) -> bool:
    """Return whether a value may be kept: the policy that keeps all but gathered parameters.

    Gathered parameters are known by their name, and by the operations that they pass through. What
    is reshaped or split is kept as it was before that. For an activation this is the same, and a
    gathered parameter is not kept at all.
    """
    return (
        primitive.name not in ("all_gather", "reshape", "split") and params.get("name") != GATHERED
    )


def group_norm(groups: int, epsilon: float, dtype: Any, name: str | None = None) -> nn.GroupNorm:
    """Return a GroupNorm in two passes.

    E[x²] - E[x]² would lose the small activations that the epsilon is meant for.
    """
    return nn.GroupNorm(groups, epsilon=epsilon, dtype=dtype, use_fast_variance=False, name=name)


def conv3(features: int, dtype: Any, name: str, *, stride: int = 1, zero: bool = False) -> nn.Conv:
    """Return a 3×3 convolution with torch's symmetric padding of one.

    `zero` initialises it with zeros, for the end of a residual branch.
    """
    init = nn.initializers.zeros if zero else nn.initializers.lecun_normal()
    return nn.Conv(
        features,
        (3, 3),
        strides=(stride, stride),
        padding=1,
        dtype=dtype,
        kernel_init=init,
        name=name,
    )


def upsample_nearest(x: jax.Array) -> jax.Array:
    """Enlarge [B, H, W, C] to [B, 2H, 2W, C], each value repeated in a 2×2 square."""
    return x.repeat(2, axis=1).repeat(2, axis=2)


class ResBlock(nn.Module):
    """x + conv(silu(norm(conv(silu(norm(x))) + emb))), for UNet (with emb) and autoencoder.

    x [B, H, W, C], emb [B, E] or None → [B, H, W, features]. `groups=0` leaves the norms out; small
    autoencoders trained with an orthogonalising optimizer do better without them.
    """

    features: int
    groups: int = 32
    epsilon: float = 1e-5
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x, emb=None):
        """Return the block's output [B, H, W, features]."""

        def normed(h, name):
            return group_norm(self.groups, self.epsilon, self.dtype, name)(h) if self.groups else h

        x = checkpoint_name(x, BLOCK_INPUT)
        h = checkpoint_name(
            conv3(self.features, self.dtype, "conv_in")(nn.silu(normed(x, "norm_in"))), CONVOLVED
        )
        if emb is not None:
            h = (
                h
                + nn.Dense(self.features, dtype=self.dtype, name="emb")(nn.silu(emb))[
                    :, None, None, :
                ]
            )
        h = conv3(self.features, self.dtype, "conv_out", zero=True)(nn.silu(normed(h, "norm_out")))
        if x.shape[-1] != self.features:
            x = nn.Conv(self.features, (1, 1), dtype=self.dtype, name="skip")(x)
        return x + h
