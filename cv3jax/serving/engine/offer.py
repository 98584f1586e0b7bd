"""What an engine can draw: which orders it takes, and the lanes that they pass."""

from collections.abc import Mapping
from types import MappingProxyType

from cv3jax.cascade.sizes import Size
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.serving.engine.lanes import Lane, lanes_of, places_of
from cv3jax.serving.engine.rows import Leg, legs_of
from cv3jax.serving.orders import Order
from data_pipeline.io.errors import InputError


class Offer:
    """The sizes of a cascade's pictures that an engine was compiled for."""

    def __init__(
        self,
        description: CascadeDescription,
        chains: list[tuple[Size, ...]],
        adapters: Mapping[str, str] = MappingProxyType({}),
    ):
        """Keep the chains of sizes, each from the base's picture to the final one.

        adapters: the stage of each that orders may name.
        """
        self._adapters = adapters
        self.description, self.chains = description, chains
        self.places = places_of(chains)
        self.lanes = lanes_of(self.places)
        self._known = set(self.lanes)

    def legs(self, order: Order) -> list[Leg]:
        """Return the legs of an order. Raises InputError where it cannot be drawn."""
        image = order.image
        if image is not None and (image.shape != (*order.sizes[0], 3) or image.dtype != "uint8"):
            raise InputError(
                f"a picture of {image.dtype} {list(image.shape)}: give uint8"
                f" {[*order.sizes[0], 3]}, the first of the order's sizes"
            )
        if image is not None and len(order.sizes) < 2:
            raise InputError("a picture to enlarge: give the size that it shall have, too")
        needed = ("base",) * (image is None) + ("relay",) * (len(order.sizes) > 1)
        if missing := [stage for stage in needed if stage not in self.description.stages]:
            raise InputError(f"this cascade has no {' and no '.join(missing)} stage")
        for name, _ in order.loras:
            if self._adapters.get(name) not in needed:
                raise InputError(f"adapter {name[:60]!r}: this server has none for such a picture")
        legs = legs_of(order, self.description)
        if not self._known.issuperset(leg.lane for leg in legs):
            raise InputError(
                f"sizes {_shown(order.sizes)}: this server draws"
                f" {', or '.join(map(_shown, self.chains))}"
            )
        return legs


def units_of(legs: list[Leg]) -> list[tuple[Lane, int]]:
    """Return the lanes of some legs, with the units in each."""
    return [(leg.lane, leg.units) for leg in legs]


def _shown(sizes: tuple[Size, ...]) -> str:
    return " → ".join(map(str, sizes))
