"""The autoencoder as a row of layers, and where their feature maps are kept.

A map that is kept is computed once and read by what comes after it. A map that is not kept is
computed again, tile by tile, for each norm that comes after it and before the next kept one: the
moments of a norm need the whole picture. So a smaller bound on the maps costs time and saves
memory.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from cv3jax.cascade.vae_tile import (
    Conv,
    Layer,
    NormSilu,
    Path,
    Residual,
    ToDepth,
    ToSpace,
    Upsample,
)
from cv3jax.models.vae import Autoencoder


@dataclass(frozen=True)
class Stretch:
    """Layers from one map to the next. scale: the latter's positions per latent position."""

    layers: tuple[Layer, ...]
    scale: int
    channels: int


@dataclass(frozen=True)
class Attention:
    """The attention of all positions over all others, at the path of a `PixelAttention`."""

    path: Path
    groups: int


Steps = list[Stretch | Attention]


def _res_block(vae: Autoencoder, path: Path, before: int, after: int) -> Residual:
    branch = (
        NormSilu((*path, "norm_in"), vae.groups),
        Conv((*path, "conv_in")),
        NormSilu((*path, "norm_out"), vae.groups),
        Conv((*path, "conv_out")),
    )
    return Residual(branch, None if before == after else (*path, "skip"))


def _middle(vae: Autoencoder, part: str, channels: int) -> Iterator[Stretch | Attention]:
    for name in ("res_0", "attention", "res_1"):
        path = (part, "mid", name)
        if name != "attention":
            yield Stretch((_res_block(vae, path, channels, channels),), 1, channels)
        elif vae.mid_attention:
            yield Attention(path, vae.groups)


def decoder_steps(vae: Autoencoder) -> Steps:
    """Return the steps from unscaled latents to pixels, one for each map."""
    channels = vae.channels * vae.channel_mult[-1]
    steps: Steps = [Stretch((Conv(("post_quant",), 1), Conv(("decoder", "conv_in"))), 1, channels)]
    steps += _middle(vae, "decoder", channels)
    scale = 1
    for stage, mult in reversed(list(enumerate(vae.channel_mult))):
        for i in range(vae.res_blocks + 1):
            after = vae.channels * mult
            block = _res_block(vae, ("decoder", f"up_{stage}_{i}"), channels, after)
            steps.append(Stretch((block,), scale, after))
            channels = after
        if stage:
            scale *= 2
            enlarge = (Upsample(), Conv(("decoder", f"up_{stage}_sample")))
            steps.append(Stretch(enlarge, scale, channels))
    last = (NormSilu(("decoder", "norm_out"), vae.groups), Conv(("decoder", "conv_final")))
    return [*steps, Stretch((*last, ToSpace(vae.patch)), vae.factor, 3)]


def encoder_steps(vae: Autoencoder) -> Steps:
    """Return the steps from pixels to the posterior's moments, one for each map."""
    channels, scale = vae.channels, vae.factor // vae.patch
    first = (ToDepth(vae.patch), Conv(("encoder", "conv_in")))
    steps: Steps = [Stretch(first, scale, channels)]
    for stage, mult in enumerate(vae.channel_mult):
        for i in range(vae.res_blocks):
            after = vae.channels * mult
            block = _res_block(vae, ("encoder", f"down_{stage}_{i}"), channels, after)
            steps.append(Stretch((block,), scale, after))
            channels = after
        if stage < len(vae.channel_mult) - 1:
            scale //= 2
            shrink = Conv(("encoder", f"down_{stage}_sample"), stride=2)
            steps.append(Stretch((shrink,), scale, channels))
    steps += _middle(vae, "encoder", channels)
    last = (NormSilu(("encoder", "norm_out"), vae.groups), Conv(("encoder", "conv_final")))
    return [*steps, Stretch((*last, Conv(("quant",), 1)), 1, 2 * vae.z_channels)]


def default_bound(vae: Autoencoder) -> int:
    """Return the largest map to keep, in elements per latent position: that of half resolution.

    At full size two maps of 256 channels at half the pixels per side are held at once; all maps at
    the pixels' own resolution are computed again for each norm.
    """
    stages = list(enumerate(vae.channel_mult))
    half = stages[1:] or stages  # one stage alone has its maps kept, for the attention needs them
    finest = vae.factor // vae.patch
    return max((finest // 2**stage) ** 2 * vae.channels * mult for stage, mult in half)


def merged(steps: Steps, bound: float) -> Steps:
    """Return the steps with those joined whose maps are not kept.

    Kept are the maps before and after an attention, and those of at most `bound` elements per
    latent position.
    """
    found: Steps = []
    pending: tuple[Layer, ...] = ()
    for step, after in zip(steps, [*steps[1:], None], strict=True):
        if isinstance(step, Attention):
            found.append(step)
            continue
        pending += step.layers
        large = step.scale**2 * step.channels > bound
        if not large or after is None or isinstance(after, Attention):
            found.append(Stretch(pending, step.scale, step.channels))
            pending = ()
    return found


def norms(layers: tuple[Layer, ...]) -> Iterator[tuple[NormSilu, tuple[Layer, ...]]]:
    """Yield (a norm, the layers that make its input) in the order of computation."""
    for i, layer in enumerate(layers):
        if isinstance(layer, NormSilu) and layer.groups:
            yield layer, layers[:i]
        elif isinstance(layer, Residual):
            for norm, before in norms(layer.branch):
                yield norm, (*layers[:i], *before)


def scale_after(layers: tuple[Layer, ...], scale: int) -> int:
    """Return the positions per latent position after the layers, of `scale` before them."""
    for layer in layers:
        if isinstance(layer, Upsample):
            scale *= 2
        elif isinstance(layer, ToSpace):
            scale *= layer.block
        elif isinstance(layer, ToDepth):
            scale //= layer.block
        elif isinstance(layer, Conv):
            scale //= layer.stride
    return scale
