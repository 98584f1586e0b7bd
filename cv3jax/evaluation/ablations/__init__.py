"""Ablations: variants of one way to draw, by group, each compared with the first of its group."""
