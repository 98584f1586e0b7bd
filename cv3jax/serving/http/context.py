"""What the routes of a server work with."""

import dataclasses
from collections.abc import Awaitable, Callable

from fastapi import Request

from cv3jax.serving.http.book import Book
from cv3jax.serving.http.limits import Limits
from cv3jax.serving.http.metrics import Metrics
from cv3jax.serving.http.plan import Model
from cv3jax.serving.orders import Engine
from data_pipeline.expansion.result import Expansion

Expand = Callable[[str], Awaitable[Expansion]]  # raises ApiError


@dataclasses.dataclass(frozen=True)
class Context:
    """A server's parts.

    expand: writes prompts out, or None. safe: whether pictures pass a safety check. public: the
    address that clients call, without a slash at its end; None: the one that a request names.
    """

    model: Model
    engine: Engine
    book: Book
    limits: Limits
    metrics: Metrics
    expand: Expand | None = None
    safe: bool = False
    public: str | None = None

    def url_of(self, request: Request) -> Callable[[str], str]:
        """Return what makes a file's name an address."""
        base = self.public or f"{request.url.scheme}://{request.url.netloc}"
        return lambda name: f"{base}/v1/files/{name}"

    def note(self, request: Request, job: str, prompt: str) -> None:
        """Keep what the access log says of a request."""
        request.state.job = job
        request.state.prompt = prompt
