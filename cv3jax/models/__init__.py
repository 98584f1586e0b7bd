"""The networks: UNet, KL autoencoder and T5 encoder.

The only package that imports flax; everyone else calls `apply`.
"""

# what of a UNet's block is computed again in the backward pass
REMATS = ("none", "block", "full", "offload")
