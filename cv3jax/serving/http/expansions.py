"""Prompts that a language model writes out, for many clients at once."""

import asyncio
from collections.abc import Callable

from cv3jax.sampling.expanding import Expanding
from cv3jax.serving.http.errors import ApiError
from data_pipeline.expansion.result import Expansion
from data_pipeline.expansion.run import Expander, make_model
from data_pipeline.expansion.store import Store
from data_pipeline.io.errors import FailedRunError, InputError, first_line
from data_pipeline.loading.tokenizer import Tokenize


class Expansions:
    """Expands prompts with as many questions at once as the model takes.

    What the model's server says goes to this server's log, and never to a client.
    """

    def __init__(self, expander: Expander, say: Callable[[str], None]):
        """Keep an expander whose model was entered. say: is told why an expansion failed."""
        self._expander, self._say = expander, say
        self._turn = asyncio.Semaphore(expander.model.at_once)

    async def __call__(self, prompt: str) -> Expansion:
        """Return the expansion of a prompt. Raises ApiError where there is none."""
        async with self._turn:
            try:
                return await self._expander.expand_one(prompt)
            except (InputError, FailedRunError, OSError) as e:
                self._say(f"an expansion failed: {first_line(e, 400)}")
                late = isinstance(e, FailedRunError)
                raise ApiError(
                    504 if late else 502,
                    "the language model "
                    + ("did not answer" if late else "gave no usable text")
                    + "; send the prompt without expand to draw it as it is",
                    code="expansion_failed",
                    param="expand",
                ) from e


def expander_of(expanding: Expanding, tokenize: Tokenize) -> Expander:
    """Return what expands prompts as the flags say; nothing is asked yet."""
    settings, template = expanding.settings, expanding.template
    stores = [Store(settings.cache)] if settings.cache else []
    model = make_model(settings, template)
    return Expander(model, template, tokenize, stores, fallback=settings.fallback)
