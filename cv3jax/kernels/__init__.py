"""Attention by backend."""
