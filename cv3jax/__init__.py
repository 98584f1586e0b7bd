"""Train, distil and sample CogView3 (arXiv 2403.05121) in JAX: text to image by relay diffusion."""

__version__ = "0.1.0"
