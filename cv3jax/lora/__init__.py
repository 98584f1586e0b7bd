"""Low-rank adapters (LoRA): trained on few pictures, in files of four formats, and in a cascade.

The arithmetic is in `cv3jax.models.adapters`.
"""
