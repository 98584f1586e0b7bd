"""From pictures with captions to training batches: pack, render, stream.

Imports neither jax nor cv3jax.
"""
