"""What the engine is asked to draw, and what it tells while it draws."""

import dataclasses
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from cv3jax.cascade.sizes import Size


@dataclasses.dataclass(frozen=True)
class Choice:
    """How one stage samples one picture; `limits.untrained` says what a stage allows."""

    steps: int
    guidance: float
    eta: float = 0.0
    strength: float = 1.0  # of a relay: where it starts, as a share of its trained T_r


@dataclasses.dataclass(frozen=True)
class Order:
    """One picture to draw, or one picture to enlarge."""

    id: str  # unique among all that the engine holds
    prompt: str
    seed: int
    # of the base's picture, or of `image`, and after each relay pass; all among `Engine.sizes`
    sizes: tuple[Size, ...]
    base: Choice
    relay: Choice
    image: np.ndarray | None = None  # uint8 [H, W, 3] in place of what the base would draw
    previews: bool = False  # whether `Stepped` carries previews
    loras: tuple[tuple[str, float], ...] = ()  # names of adapters, each with its weight


@dataclasses.dataclass(frozen=True)
class Stepped:
    """A step was taken."""

    stage: str  # "base" or "relay"
    relay_pass: int  # 0 for the base, and from 1 for relay passes
    done: int
    count: int  # of this stage
    preview: np.ndarray | None  # x̂0, uint8 [h, w, 3], one pixel a latent position


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A stage's picture is there. The last relay pass's is the order's result."""

    stage: str
    relay_pass: int
    image: np.ndarray  # uint8 [H, W, 3]
    last: bool


@dataclasses.dataclass(frozen=True)
class Ended:
    """The order is over without its result: cancelled, or failed with a message."""

    cancelled: bool
    message: str = ""


Event = Stepped | Drawn | Ended
Listener = Callable[[Event], None]  # called in the engine's thread; must not block or raise


class Engine(Protocol):
    """What draws orders. Every method may be called from any thread."""

    @property
    def sizes(self) -> list[tuple[Size, ...]]:
        """The sizes, from the base's picture to the final one, that were compiled."""

    @property
    def capabilities(self) -> dict[str, Any]:
        """Programs, shapes, compiled memory and measured seconds, for `/v1/capabilities`."""

    @property
    def gauges(self) -> dict[str, float]:
        """What `/metrics` shows: rows waiting and running by lane, occupancy, steps, seconds."""

    def submit(self, order: Order, listener: Listener) -> None:
        """Draw an order; its events go to the listener, the last one is `Ended` or a last `Drawn`.

        Raises InputError on an order that cannot be drawn.
        """

    def cancel(self, order_id: str) -> bool:
        """End an order before its next step. Returns whether it was still to be drawn."""

    def seconds(self, orders: list[Order]) -> float:
        """Return the seconds after which these orders would be done if they came now."""

    def remaining(self, order_id: str) -> float | None:
        """Return the seconds after which an order will be done, or None for one that is over."""

    def start(self) -> None:
        """Begin to draw, in a thread of its own."""

    def stop(self, drain: float) -> int:
        """End after at most `drain` seconds. Returns the number of orders not drawn."""
