"""Low-rank adapters: a trained stage, frozen, learns from a few pictures by small additions.

The arithmetic is in `cv3jax.models.adapters`.
"""
