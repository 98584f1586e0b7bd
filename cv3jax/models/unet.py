"""The denoising network F of CogView3: a UNet with cross-attention to the text.

Sizes and time enter by an added embedding.
"""

import re
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cv3jax.models.adapters import kernel_of
from cv3jax.models.embeddings import timestep_embedding
from cv3jax.models.layers import (
    KV,
    Attend,
    Constrain,
    Gather,
    ResBlock,
    attend,
    block_of,
    conv3,
    group_norm,
    no_constraint,
    upsample_nearest,
)
from cv3jax.models.transformer import SpatialTransformer, project_kv

TRANSFORMER = "_transformer"  # the end of a spatial transformer's name
# keys and values of a text: transformer's name → those of its blocks, each [depth, B, L, N, D]
TextKV = dict[str, KV]


class UNet(nn.Module):
    """F(x, index, cond): what the network predicts (ε or v) for the scaled noisy latent.

    The defaults are the released sizes: 2.9 B parameters. Latent height and width must be multiples
    of 2^(stages - 1).
    """

    channels: int = 320  # of the first stage
    channel_mult: tuple[int, ...] = (1, 2, 4)  # one entry per stage
    res_blocks: int = 2  # per stage on the way down; one more on the way up
    # transformer blocks after each ResBlock of a stage; 0 for no attention
    depth: tuple[int, ...] = (0, 2, 10)
    mid_depth: int = 10
    head_dim: int = 64
    out_channels: int = 4
    w_dim: int = 0  # width of the guidance embedding of distilled models; 0 leaves it out
    groups: int = 32
    remat: str = "none"  # what is computed again in the backward pass: cv3jax.models.REMATS
    dtype: Any = jnp.float32
    attend: Attend = attend
    constrain: Constrain = no_constraint
    # gathers a block's parameters, where each device holds a shard of them
    gather: Gather | None = None

    @staticmethod
    def gathers(path: tuple[str, ...]) -> bool:
        """Return whether the parameter at `path` is a block's; blocks call `gather` themselves."""
        return "blocks" in path or re.fullmatch(r"(down|mid|up)_\d+(_\d+)?", path[0]) is not None

    @nn.nowrap
    def text_kv(self, params: Any, text: jax.Array) -> TextKV:
        """Return the keys and values of a text [B, L, C] in every cross-attention.

        They depend neither on x nor on the time, so that all steps of a sampler have the same.
        `__call__` takes them in place of the text.
        """

        def of(name: str) -> KV:
            path = (name, "blocks", "cross_attention")

            def one(kernels: tuple) -> KV:
                if self.gather is not None:
                    kernels = [
                        self.gather((*path, each), {"kernel": kernel})["kernel"]
                        for each, kernel in zip("kv", kernels, strict=True)
                    ]
                return project_kv(text, kernels, self.head_dim, self.dtype)

            cross = params[name]["blocks"]["cross_attention"]
            # one block at a time: its kernels are gathered, if at all, when they are used
            return jax.lax.map(one, tuple(kernel_of(cross[each]) for each in "kv"))

        return {name: of(name) for name in params if name.endswith(TRANSFORMER)}

    @nn.compact
    def __call__(self, x, index, cond):
        """Return the prediction, float32, of the shape of x.

        x [B, H, W, z], index [B] in 0..999, cond {text [B, L, C], vector [B, 1536], w [B, w_dim]
        (optional)}. A model with `w_dim` may be called without cond["w"]: the embedding then adds
        nothing. Raises ValueError on a cond["w"] that the model has no `w_dim` for.

        cond["text"] may be the text's keys and values, as `text_kv` returns them. If these have
        half as many rows as x, they belong to its odd rows, and the even rows have a text of zeros.
        """
        embed = 4 * self.channels
        if "w" in cond and not self.w_dim:
            raise ValueError("cond has a guidance weight 'w' but the UNet was built with w_dim=0")

        def mlp(value, name):
            value = nn.silu(nn.Dense(embed, dtype=self.dtype, name=f"{name}_in")(value))
            return nn.Dense(embed, dtype=self.dtype, name=f"{name}_out")(value)

        time = timestep_embedding(index, self.channels)
        if self.w_dim:
            # called at init too, so that a model built for distillation has the kernel whatever its
            # first batch holds
            w = cond.get("w", jnp.zeros((x.shape[0], self.w_dim), jnp.float32))
            time = time + nn.Dense(
                self.channels,
                use_bias=False,
                dtype=self.dtype,
                kernel_init=nn.initializers.zeros,
                name="w_proj",
            )(w)
        emb = mlp(time, "time") + mlp(cond["vector"], "size")
        text = cond["text"]
        given = isinstance(text, dict)
        text = text if given else text.astype(self.dtype)
        h = conv3(self.channels, self.dtype, "conv_in")(x)

        def unit(self, h, emb, text, features, depth, name):
            res_block = block_of(ResBlock, (name,), self.gather, self.remat)
            h = self.constrain(
                res_block(features, self.groups, dtype=self.dtype, name=name)(h, emb)
            )
            if depth:
                h = SpatialTransformer(
                    depth,
                    self.head_dim,
                    self.groups,
                    self.remat,
                    self.dtype,
                    self.attend,
                    self.constrain,
                    self.gather,
                    name=name + TRANSFORMER,
                )(h, text)
            return self.constrain(h)

        def block(h, features, depth, name):
            kept = nn.remat(unit, static_argnums=(4, 5, 6)) if self.remat == "full" else unit
            own = text.get(name + TRANSFORMER) if given else text
            return kept(self, h, emb, own, features, depth, name)

        skips = [h]
        last = len(self.channel_mult) - 1
        for stage, mult in enumerate(self.channel_mult):
            for i in range(self.res_blocks):
                h = block(h, self.channels * mult, self.depth[stage], f"down_{stage}_{i}")
                skips.append(h)
            if stage < last:
                h = self.constrain(
                    conv3(h.shape[-1], self.dtype, f"down_{stage}_sample", stride=2)(h)
                )
                skips.append(h)

        h = block(h, h.shape[-1], self.mid_depth, "mid_0")
        h = block(h, h.shape[-1], 0, "mid_1")

        for stage, mult in reversed(list(enumerate(self.channel_mult))):
            for i in range(self.res_blocks + 1):
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = block(h, self.channels * mult, self.depth[stage], f"up_{stage}_{i}")
            if stage:
                h = self.constrain(
                    conv3(h.shape[-1], self.dtype, f"up_{stage}_sample")(upsample_nearest(h))
                )

        h = nn.silu(group_norm(self.groups, 1e-5, self.dtype, "norm_out")(h))
        return conv3(self.out_channels, self.dtype, "conv_final", zero=True)(h).astype(jnp.float32)
