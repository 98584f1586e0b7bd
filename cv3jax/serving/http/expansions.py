"""Prompts that a language model writes out, for many clients at once."""

import asyncio
import dataclasses
from collections.abc import Callable

from cv3jax.sampling.expanding import Expanding
from cv3jax.web.errors import ApiError
from data_pipeline.expansion.result import Expansion
from data_pipeline.expansion.run import Expander, make_model
from data_pipeline.expansion.store import Store
from data_pipeline.io.errors import FailedRunError, InputError, first_line
from data_pipeline.loading.tokenizer import Tokenize


class Expansions:
    """Expands prompts with as many questions at once as the model takes.

    What the model's server says goes to this server's log, and never to a client. It may have words
    of the prompt, so that the log has only the reason where it is to have no prompts.
    """

    def __init__(self, expander: Expander, say: Callable[[str], None], *, prompts: bool = False):
        """Keep an expander whose model was entered.

        say: is told why an expansion failed. prompts: whether it may be told of prompts.
        """
        self._expander, self._say, self._prompts = expander, say, prompts
        self._turn = asyncio.Semaphore(expander.model.at_once)

    async def __call__(self, prompt: str) -> Expansion:
        """Return the expansion of a prompt. Raises ApiError where there is none."""
        async with self._turn:
            try:
                made = await self._expander.expand_one(prompt)
            except (InputError, FailedRunError, OSError) as e:
                self._say(f"an expansion failed: {self._why(first_line(e, 400), e)}")
                late = isinstance(e, FailedRunError)
                raise ApiError(
                    504 if late else 502,
                    "the language model "
                    + ("did not answer" if late else "gave no usable text")
                    + "; send the prompt without expand to draw it as it is",
                    code="expansion_failed",
                    param="expand",
                ) from e
        if not made.fallback:
            return made
        reason = made.fallback.partition(": ")[0]
        self._say(f"a prompt is drawn as it is: {made.fallback if self._prompts else reason}")
        return dataclasses.replace(made, fallback=reason)

    def _why(self, said: str, e: Exception) -> str:
        """Return why an expansion failed, as the log may say it."""
        notes = getattr(e, "__notes__", None)  # of errors that name the prompt
        return notes[0] if notes and not self._prompts else said


def expander_of(expanding: Expanding, tokenize: Tokenize) -> Expander:
    """Return what expands prompts as the flags say; nothing is asked yet."""
    settings, template = expanding.settings, expanding.template
    stores = [Store(settings.cache)] if settings.cache else []
    model = make_model(settings, template)
    return Expander(model, template, tokenize, stores, fallback=settings.fallback)
