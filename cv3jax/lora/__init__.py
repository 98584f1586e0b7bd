"""Fine-tuning by low-rank adapters (LoRA): a trained stage, frozen, learns from a few pictures.

The arithmetic is in `cv3jax.models.adapters`, files and merging in `cv3jax.adapters`.
"""
