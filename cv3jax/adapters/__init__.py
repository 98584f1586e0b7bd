"""Low-rank adapters (LoRA) as files of four formats, as trees, and in the weights of a cascade.

The arithmetic is in `cv3jax.models.adapters`.
"""
