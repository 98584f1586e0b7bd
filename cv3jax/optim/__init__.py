"""Optimizers, learning rates, and moments stored in bfloat16."""

# the names by which recipes choose: settings are checked by them before JAX is imported
OPTIMIZERS = ("adamw", "adafactor", "muon")
MOMENTS = ("float32", "bfloat16")
DECAYS = ("constant", "linear", "cosine")
