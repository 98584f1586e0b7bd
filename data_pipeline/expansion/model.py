"""What an expander needs of a language model."""

from typing import Protocol

from data_pipeline.chat.answers import Answer, Failure

Chat = list[dict[str, str]]


class Model(Protocol):
    """A language model.

    `name` is recorded, `where` is its address or path, and `at_once` is how many questions it takes
    at a time.
    """

    name: str
    where: str
    at_once: int

    async def __aenter__(self) -> "Model":
        """Open what it needs."""

    async def __aexit__(self, kind, value, traceback) -> None:
        """Close it."""

    def load(self) -> None:
        """Load what it needs before the first question. Raises InputError where it cannot."""

    async def answer(self, chat: Chat) -> Answer | Failure:
        """Return the answer to the last message of a chat, without its reasoning."""
