"""The networks: UNet, KL autoencoder and T5 encoder.

The only package that imports flax; everyone else calls `apply`.
"""
