"""The public Python API: load a cascade, draw, enlarge. `cv3jax.__all__` names what is in it."""
