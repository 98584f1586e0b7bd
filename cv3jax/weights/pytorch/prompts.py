"""Prompts of CogView3's pipeline: tokens as the cascade was trained with.

This file belongs to a folder that `cv3jax convert --to diffusers` wrote, beside pipeline.py.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

MAX_PROMPT = 4096  # characters; the encoder reads far fewer


def as_prompts(prompt: Any) -> list[str]:
    """Return the prompts of one string or of several. Raises ValueError on anything else."""
    single = isinstance(prompt, str) or not isinstance(prompt, Sequence)
    prompts = [prompt] if single else list(prompt)
    if not prompts or not all(isinstance(one, str) for one in prompts):
        raise ValueError("prompt: give a string, or a list of some")
    for one in prompts:
        if len(one) > MAX_PROMPT:
            raise ValueError(f"prompt of {len(one):,} characters: give at most {MAX_PROMPT:,}")
        if not one.strip():
            raise ValueError(f"prompt {one[:40]!r}: give one that is not blank")
    return prompts


def tokenize(tokenizer: Any, prompts: list[str], length: int) -> torch.Tensor:
    """Return the tokens [B, length] of prompts, padded; longer prompts keep their end token.

    Names of control tokens, such as "</s>", are read as text.
    """
    added = [str(token) for token in tokenizer.added_tokens_decoder.values()]
    names = {"<pad>", "</s>", "<unk>", *tokenizer.all_special_tokens, *added}
    longest = sorted((name for name in names if len(name) > 1), key=len, reverse=True)
    controls = re.compile("|".join(map(re.escape, longest)))
    return tokenizer(
        [_as_text(tokenizer, prompt, controls) for prompt in prompts],
        padding="max_length",
        truncation=True,
        max_length=length,
        return_attention_mask=False,
        split_special_tokens=True,
        return_tensors="pt",
    ).input_ids


def _as_text(tokenizer: Any, prompt: str, controls: re.Pattern) -> str:
    """Return the prompt with a blank in what the tokenizer would read as a control token.

    Its normalizer also makes such names, from full-width letters.
    """
    prompt = prompt.encode(errors="replace").decode()  # half a surrogate pair becomes "?"
    backend = getattr(tokenizer, "backend_tokenizer", None)
    normalizer = backend.normalizer if backend else None
    plain = normalizer.normalize_str(prompt) if normalizer else prompt
    if not controls.search(plain):
        return prompt
    return controls.sub(lambda found: f"{found[0][0]} {found[0][1:]}", plain)
