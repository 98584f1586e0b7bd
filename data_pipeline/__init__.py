"""Captioned pictures in, training batches out: packing, building, recaptioning, loading.

The package imports neither jax nor cv3jax.
"""
