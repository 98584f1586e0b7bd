"""The kinds of work that drawing takes: a lane is one kind, of one stage, at one size."""

from collections.abc import Iterable
from typing import NamedTuple

from cv3jax.cascade.sizes import Size

# what a unit of a lane does with a row: reads its text, draws or encodes its start, takes one
# step, decodes its picture
TEXT, START, STEP, DECODE = KINDS = ("text", "start", "step", "decode")


class Lane(NamedTuple):
    """One kind of work; its rows share compiled programs, and no other lane's."""

    kind: str
    stage: str = ""  # "base" or "relay"; "" for the text
    size: Size | None = None  # of the stage's pictures

    def __str__(self) -> str:
        """Return the name that logs and `/v1/capabilities` have, such as "base step 64×64"."""
        return self.kind if self.size is None else f"{self.stage} {self.kind} {self.size}"


READS_TEXT = Lane(TEXT)


class Place(NamedTuple):
    """A stage at one size: what has a pool of latents."""

    stage: str
    size: Size


def places_of(chains: Iterable[tuple[Size, ...]]) -> list[Place]:
    """Return the stages and sizes that draw these chains of sizes, each once."""
    found = {}
    for first, *rest in chains:
        found[Place("base", first)] = None
        found |= dict.fromkeys(Place("relay", size) for size in rest)
    return list(found)


def lanes_of(places: Iterable[Place]) -> list[Lane]:
    """Return all lanes of these places, in the order in which a row passes them."""
    return [READS_TEXT, *(Lane(kind, *place) for place in places for kind in (START, STEP, DECODE))]
