"""cv3jax: train, distil and serve CogView3 (arXiv 2403.05121), text-to-image by relay diffusion, in
JAX.
"""

__version__ = "0.1.0"
