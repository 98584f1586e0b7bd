"""Longer prompts from a language model, kept to what the user wrote and the encoder reads."""
