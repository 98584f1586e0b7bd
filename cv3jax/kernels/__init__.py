"""Attention by backend."""

KINDS = ("auto", "xla", "cudnn", "splash", "heads")
