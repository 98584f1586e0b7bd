"""The networks: UNet, KL autoencoder and T5 encoder.

This is the only package that imports flax; all others call `apply`.
"""

DTYPES = ("float32", "bfloat16")  # in which networks compute
# what of a UNet's block is computed again in the backward pass
REMATS = ("none", "block", "full", "offload")
