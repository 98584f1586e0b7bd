"""The networks: UNet, KL autoencoder and T5 encoder.

The only package that imports flax; everyone else calls `apply`.
"""

DTYPES = ("float32", "bfloat16")  # in which networks compute
# what of a UNet's block is computed again in the backward pass
REMATS = ("none", "block", "full", "offload")
