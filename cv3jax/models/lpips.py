"""LPIPS 0.1 on VGG16 features: how different two images look (Zhang et al., arXiv 1801.03924).

It is frozen, and used only as a training loss.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp

# widths of the convolutions of each slice
WIDTHS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# from images in [-1, 1] to the statistics that VGG16 was trained on
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)


def unit(x: jax.Array) -> jax.Array:
    """Return each position's channels divided by (their norm + 1e-10), [..., C].

    Where all channels are zero, as they may be after a ReLU, the root has no finite derivative, so
    its argument is replaced there.
    """
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    norm = jnp.where(squared > 0, jnp.sqrt(jnp.where(squared > 0, squared, 1.0)), 0.0)
    return x / (norm + 1e-10)


class LPIPS(nn.Module):
    """The distance of two batches of images, float32 [B]; 0 for equal images.

    Images are in [-1, 1], [B, H, W, 3], with H and W at least 16. The five slices end at relu1_2,
    relu2_2, relu3_3, relu4_3, relu5_3; a 2×2 maximum pooling stands before all but the first.
    """

    @nn.compact
    def __call__(self, a, b):
        """Return the distances [B] of a and b."""
        # the two images go through one after the other: joined into one batch, a batch that is
        # sharded over devices would be redistributed, and the image that needs no gradient would
        # get one
        convs = [
            [nn.Conv(width, (3, 3), padding=1, name=f"conv_{i}_{j}") for j, width in enumerate(row)]
            for i, row in enumerate(WIDTHS)
        ]

        def features(x):
            x, out = (x - jnp.array(SHIFT)) / jnp.array(SCALE), []
            for row in convs:
                x = nn.max_pool(x, (2, 2), (2, 2)) if out else x
                for conv in row:
                    x = nn.relu(conv(x))
                out.append(unit(x))
            return out

        total = 0.0
        for i, (x, y) in enumerate(zip(features(a), features(b), strict=True)):
            total = total + nn.Dense(1, use_bias=False, name=f"lin_{i}")((x - y) ** 2).mean(
                axis=(1, 2, 3)
            )
        return total
