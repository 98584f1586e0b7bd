"""Latents and text features of a dataset, computed once for many epochs."""
