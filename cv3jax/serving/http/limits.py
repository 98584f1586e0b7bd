"""What the server bounds: waiting, queues, bodies, pictures, and the time of slow clients."""

import dataclasses
import math

from data_pipeline.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Limits:
    """Bounds of one server; `check` refuses those that cannot be.

    Attributes:
        max_wait: seconds; a request that would be done later is answered with 429.
        max_queue: pictures that are accepted and not drawn.
        keep: seconds for which a finished job can be fetched.
        drain: seconds for which a stopping server still draws.
        header: bytes of a request's header.
        body: bytes of a request's body.
        pixels: of an uploaded picture, before it is decoded.
        requests: that are answered at once.
        connections: that are open at once.
        header_seconds: until a request's header is complete.
        body_seconds: until a request's body is complete.
        idle_seconds: for which a connection without a request stays open.
        write_seconds: until a client must have taken a part of an answer.
    """

    max_wait: float = 300.0
    max_queue: int = 256
    keep: float = 3600.0
    drain: float = 30.0
    header: int = 16 * 2**10
    body: int = 32 * 2**20
    pixels: int = 4096 * 4096
    requests: int = 512
    connections: int = 1024
    header_seconds: float = 10.0
    body_seconds: float = 60.0
    idle_seconds: float = 30.0
    write_seconds: float = 60.0

    def check(self) -> None:
        """Raise InputError on a bound that no server can have."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            least = 0.0 if field.name == "drain" else 1e-3 if field.type is float else 1
            if not (math.isfinite(value) and least <= value <= 1e12):
                flag = f"--{field.name.replace('_', '-')}"
                raise InputError(f"{flag} {value:g}: give a number from {least:g} on")
