"""A language model behind an OpenAI-compatible endpoint."""

import json
from typing import Any

from data_pipeline.chat.answers import MALFORMED, Answer, Failure
from data_pipeline.chat.endpoint import Endpoint
from data_pipeline.chat.rate_limit import Pacer
from data_pipeline.chat.sender import Sender
from data_pipeline.expansion.model import Chat


class ServedModel:
    """A model behind an OpenAI-compatible endpoint.

    name: the server's name for it. settings: fields that are added to every request. retries,
    backoff: as for `Sender`.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        name: str,
        settings: dict[str, Any],
        *,
        at_once: int,
        retries: int,
        backoff: float,
    ):
        """Keep the parts."""
        self.name, self.at_once, self._settings, self._endpoint = name, at_once, settings, endpoint
        self.where = endpoint.url
        self._pace = {"retries": retries, "backoff": backoff}

    async def __aenter__(self) -> "ServedModel":
        """Return the model."""
        pacer = Pacer()
        self._sender = Sender(self._endpoint, pacer, expected=1000.0, **self._pace)
        return self

    def load(self) -> None:
        """Do nothing: the server has the model."""

    async def __aexit__(self, kind, value, traceback) -> None:
        """Close the connections."""
        await self._endpoint.__aexit__(kind, value, traceback)

    async def answer(self, chat: Chat) -> Answer | Failure:
        """Ask, again after errors that may not recur.

        Raises:
            InputError: the key, the model's name or the address is wrong.
            StoppedByServerError: no credit is left.
        """
        request = {"model": self.name, "messages": chat, **self._settings}
        outcome, _ = await self._sender.answer(request, json.dumps(request), last=True)
        if isinstance(outcome, Answer) and not outcome.finished:
            return Failure(MALFORMED, "no finish_reason, so the text may be cut")
        return outcome or Failure(MALFORMED, "no answer")
