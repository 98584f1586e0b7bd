"""Ahead-of-time compilation for TPUs and GPUs you don't have: memory, FLOPs, collectives."""
