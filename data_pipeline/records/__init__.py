"""Datasets of records: schema, files, feature caches."""

# how a feature cache stores latents and text features
LATENTS = ("float32", "float16", "bfloat16")
TEXTS = ("float32", "bfloat16", "int8")
