"""What the parts of a server take of its owner: bounds, keys, and who notes its requests."""

from collections.abc import Mapping
from typing import Any, Protocol

from cv3jax.web.errors import ApiError


class Bounds(Protocol):
    """Bounds of requests and connections.

    Attributes:
        header: bytes of a request's header.
        body: bytes of a request's body.
        requests: that are answered at once.
        connections: that are open at once.
        header_seconds: until a request's header is complete.
        body_seconds: until a request's body is complete.
        idle_seconds: for which a connection without a request stays open.
        write_seconds: until a client must have taken a part of an answer.
    """

    header: int
    body: int
    requests: int
    connections: int
    header_seconds: float
    body_seconds: float
    idle_seconds: float
    write_seconds: float


class Keys(Protocol):
    """The keys of a server."""

    def owner(self, authorization: bytes | None) -> str:
        """Return the name of the key in an Authorization header. Raises ApiError without one."""

    def take(self, owner: str) -> None:
        """Count a request of an owner. Raises ApiError past the rate of the key."""


class Notes(Protocol):
    """Who is told of requests."""

    def answered(self, scope: Mapping[str, Any], status: int, seconds: float, size: int) -> None:
        """Note an answered request, whose body had `size` bytes."""

    def refused(self, client: tuple[str, int] | None, e: ApiError, seconds: float) -> None:
        """Note a connection that was refused before it had a whole request."""
