"""Name the words of a prompt that a cascade's captions did not have."""

from collections.abc import Iterable

from data_pipeline.io.progress import say
from data_pipeline.loading.tokenizer import Tokenize

SHOWN = 8  # most words shown, and most letters of one
LETTERS = 40


def say_unknown(tokenize: Tokenize, prompts: Iterable[str], *, adapted: bool = False) -> list[str]:
    """Print which words of the prompts are not in the tokenizer's vocabulary. Returns them.

    It is one line on stderr. See `Tokenize.unknown`. adapted: whether there are adapters, which may
    have been taught the words.
    """
    words = tokenize.unknown(prompts)
    if words:
        taught = ", unless an adapter was taught them" if adapted else ""
        listed = ", ".join(repr(word[:LETTERS]) for word in words[:SHOWN])
        more = f" and {len(words) - SHOWN:,} more" if len(words) > SHOWN else ""
        say(
            f"cv3jax: the captions that this cascade was trained on do not contain {listed}{more};"
            f" what it draws for words that it was not trained on is arbitrary{taught}"
        )
    return words
