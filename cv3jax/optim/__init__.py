"""Optimizers, learning rates, and moments stored in bfloat16."""
