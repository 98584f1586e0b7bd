"""Blocks shared by the UNet and the autoencoder.

Everything is NHWC. Parameters are float32, compute is `dtype`; norms and the softmax run in float32
whatever `dtype` is. Do not rename `conv_in, conv_out, q, k, v, out, ff_in,
ff_out`: the weight maps use these names. `blocks` is the name of a scanned module.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
Constrain = Callable[[jax.Array], jax.Array]
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


class Attention(nn.Module):
    """Multi-head attention of x [B, S, C] over context [B, L, C'] → [B, S, C].

    q, k and v have no bias, `out` has one.
    """

    head_dim: int
    dtype: Any = jnp.float32
    attend: Attend = attend

    @nn.compact
    def __call__(self, x, context):
        """Return the attention's output [B, S, C]."""
        channels = x.shape[-1]
        heads = channels // self.head_dim

        def project(name, value):
            value = nn.Dense(channels, use_bias=False, dtype=self.dtype, name=name)(value)
            return value.reshape(*value.shape[:2], heads, self.head_dim)

        y = self.attend(project("q", x), project("k", context), project("v", context))
        return nn.Dense(channels, dtype=self.dtype, name="out")(y.reshape(x.shape))


class GatedDense(nn.Module):
    """(value, gate) of x [B, S, C], two of [B, S, features], by the halves of one matrix.

    The matrix [C, 2 features] is halved, not the product, so that a mesh can shard the features of
    both alike.
    """

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x):
        """Return (value, gate)."""
        kernel = self.param(
            "kernel", nn.initializers.lecun_normal(), (x.shape[-1], 2 * self.features), jnp.float32
        )
        bias = self.param("bias", nn.initializers.zeros, (2 * self.features,), jnp.float32)
        x, kernel, bias = (value.astype(self.dtype) for value in (x, kernel, bias))
        return tuple(
            x @ kernel + bias
            for kernel, bias in zip(jnp.split(kernel, 2, axis=1), jnp.split(bias, 2), strict=True)
        )


# the backward pass keeps x, not its float32 intermediates
@functools.partial(jax.checkpoint, prevent_cse=False)
def gelu(x: jax.Array) -> jax.Array:
    """Return x Φ(x) by erf, computed in float32 whatever x is.

    PyTorch computes it so, and on CPUs erf takes a third of the time of erfc.
    """
    wide = x.astype(jnp.float32)
    return (0.5 * wide * (1 + jax.lax.erf(wide * 0.5**0.5))).astype(x.dtype)


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention to the text and GEGLU feed-forward, pre-normed and residual.

    x [B, S, C], text [B, L, C'] → [B, S, C]. The GELU is the exact one (erf), as in the released
    model.
    """

    head_dim: int
    dtype: Any = jnp.float32
    attend: Attend = attend
    constrain: Constrain = no_constraint

    @nn.compact
    def __call__(self, x, text):
        """Return the block's output [B, S, C]."""

        def normed(name):
            return nn.LayerNorm(epsilon=1e-5, dtype=self.dtype, use_fast_variance=False, name=name)(
                x
            )

        x = checkpoint_name(x, BLOCK_INPUT)
        attention = {"head_dim": self.head_dim, "dtype": self.dtype, "attend": self.attend}
        h = normed("norm_self")
        x = x + Attention(**attention, name="self_attention")(h, h)
        x = x + Attention(**attention, name="cross_attention")(normed("norm_cross"), text)
        value, gate = GatedDense(4 * x.shape[-1], dtype=self.dtype, name="ff_in")(normed("norm_ff"))
        x = x + nn.Dense(x.shape[-1], dtype=self.dtype, name="ff_out")(value * gelu(gate))
        return self.constrain(x)


class SpatialTransformer(nn.Module):
    """`depth` transformer blocks over the H·W positions (row-major) of x [B, H, W, C].

    text [B, L, C'] → same shape as x. The blocks are one scanned block with stacked parameters
    [depth, ...], because the unrolled full-size step takes twice as long to compile.
    """

    depth: int
    head_dim: int
    groups: int = 32
    remat: str = "none"
    dtype: Any = jnp.float32
    attend: Attend = attend
    constrain: Constrain = no_constraint
    gather: Gather | None = None

    @nn.compact
    def __call__(self, x, text):
        """Return the output, of the shape of x."""
        batch, height, width, channels = x.shape
        h = group_norm(self.groups, 1e-6, self.dtype, "norm")(x).reshape(
            batch, height * width, channels
        )
        h = nn.Dense(channels, dtype=self.dtype, name="proj_in")(h)
        block = block_of(
            TransformerBlock, (*self.path, "blocks"), self.gather, self.remat, scanned=True
        )
        stack = nn.scan(
            lambda block, h, text: (block(h, text), None),
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=nn.broadcast,
            length=self.depth,
        )
        h, _ = stack(
            block(self.head_dim, self.dtype, self.attend, self.constrain, name="blocks"), h, text
        )
        h = nn.Dense(
            channels, dtype=self.dtype, kernel_init=nn.initializers.zeros, name="proj_out"
        )(h)
        return x + h.reshape(x.shape)
