"""Sizes of pictures, and the sizes that lead from the base stage to the final pictures."""

import math
import re
from collections.abc import Sequence
from typing import NamedTuple

from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from cv3jax.checkpoints.description_fields import MAX_SIDE
from data_pipeline.io.errors import InputError

# doublings of the base's sides; the paper iterates the relay twice, and tiles beyond that
MAX_PASSES = 4
FACTORS = tuple(2**n for n in range(1, MAX_PASSES + 1))  # by which a picture can be enlarged
# how far the area of a base picture may be from the trained one, either way
FAR = 4.0
_WRITTEN = re.compile(r"(\d{1,6})(?:[x×](\d{1,6}))?", re.IGNORECASE)


class Size(NamedTuple):
    """Height and width of a picture in pixels."""

    height: int
    width: int

    def __str__(self) -> str:
        """Return the size as it is written in messages, height first."""
        return f"{self.height}×{self.width}"

    def times(self, factor: int) -> "Size":
        """Return both sides times `factor`."""
        return Size(self.height * factor, self.width * factor)

    def divided(self, factor: int) -> "Size":
        """Return both sides divided by `factor`, without remainder."""
        return Size(self.height // factor, self.width // factor)

    def is_multiple(self, number: int) -> bool:
        """Return whether both sides are multiples of `number`."""
        return self.height % number == 0 and self.width % number == 0


def as_size(value: int | Sequence[int]) -> Size:
    """Return a size of one side, or of (height, width). Raises ValueError on anything else."""
    sides = (value, value) if isinstance(value, int) else tuple(value)
    whole = len(sides) == 2 and all(
        isinstance(side, int) and not isinstance(side, bool) for side in sides
    )
    if not whole or not all(1 <= side <= MAX_SIDE for side in sides):
        raise ValueError(
            f"size {value!r}: give one side or (height, width), whole numbers in 1..{MAX_SIDE}"
        )
    return Size(*sides)


def parse_size(text: str, flag: str = "--size") -> Size:
    """Return the size written as one side, or as HEIGHTxWIDTH. Raises InputError."""
    found = _WRITTEN.fullmatch(text.strip())
    try:
        if found is None:
            raise ValueError
        return as_size((int(found[1]), int(found[2] or found[1])))
    except ValueError as e:
        raise InputError(
            f"{flag} {text[:40]}: give one side, or HEIGHTxWIDTH such as 768x512 (height first),"
            f" in 1..{MAX_SIDE} pixels"
        ) from e


def multiple_of(description: CascadeDescription, name: str) -> int:
    """Return the number that the sides of a stage's pictures, in pixels, must be multiples of."""
    return stage_multiple(description.stages[name])


def stage_multiple(stage: StageDescription) -> int:
    """Return `multiple_of` of a stage."""
    return stage.factor * 2 ** (len(stage.model.get("channel_mult", (1, 2, 4))) - 1)


def has_relay(description: CascadeDescription) -> bool:
    """Return whether the cascade can enlarge pictures. The relay of sr_1024 is not one yet."""
    stages = description.stages
    return "relay" in stages and stages["relay"].kind == "relay"


def drawn_sizes(description: CascadeDescription, size: Size | None = None) -> tuple[Size, ...]:
    """Return the sizes of the base's picture and of what each relay pass makes of it.

    size: of the last one; None is one relay pass, or none without a relay. Each pass doubles both
    sides. The number of passes is the one whose base picture has the area nearest to the trained
    one.

    Raises InputError on a size whose sides are not multiples of what this number of passes takes.
    """
    trained, relays = Size(*2 * (description.stages["base"].image_size,)), has_relay(description)
    if size is None:
        return (trained, trained.times(2)) if relays else (trained,)
    multiples = [multiple_of(description, "base")]
    if relays:  # the pictures of each pass must suit the relay too
        base, relay = multiples[0], multiple_of(description, "relay")
        multiples += [math.lcm(base << n, relay << (n - 1)) for n in range(1, MAX_PASSES + 1)]
    passes = _passes(size, trained, len(multiples) - 1)
    if passes is None or not size.is_multiple(multiples[passes]):
        raise InputError(_no_such_size(size, trained, multiples))
    return tuple(size.divided(1 << left) for left in range(passes, -1, -1))


def _passes(size: Size, trained: Size, most: int) -> int | None:
    """Return which number of passes, 0..most, has the base picture of the area nearest to trained.

    It is None where that area is more than FAR times too large or too small.
    """

    def distance(passes: int) -> float:
        area = size.height * size.width / 4**passes
        return abs(math.log(area / (trained.height * trained.width)))

    nearest = min(range(most + 1), key=distance)
    return nearest if distance(nearest) <= math.log(FAR) else None


def _no_such_size(size: Size, trained: Size, multiples: list[int]) -> str:
    """Return the message for a size that the cascade cannot draw, with one near it that it can.

    multiples: by the number of passes, of which the sides must be multiples.
    """
    most = len(multiples) - 1
    wanted = _passes(size, trained, most)
    others = [] if wanted is None else sorted(range(most + 1), key=lambda n: abs(n - wanted))
    for passes in others:  # rounding a very thin picture may change the number of passes
        step = multiples[passes]
        sides = [sorted({max(side // step, 1), -(-side // step)}) for side in size]
        around = [Size(high * step, wide * step) for high in sides[0] for wide in sides[1]]
        if drawn := [near for near in around if _passes(near, trained, most) == passes]:
            near = min(drawn, key=lambda near: math.dist(near, size))
            return (
                f"size {size}: height and width must be multiples of {step} for {passes} relay"
                f" pass{'es' * (passes != 1)} from a base picture of about {trained}; {near} is"
                " the nearest"
            )
    least, largest = trained.height / math.sqrt(FAR), trained.height * math.sqrt(FAR)
    return (
        f"size {size}: this cascade makes pictures of about {least:.0f}² to"
        f" {largest * 2**most:.0f}² pixels"
        + ("" if most else ", because it has no relay stage")
        + f"; it was trained on {trained}, and sides are multiples of {multiples[0]}"
    )


def enlarged_sizes(
    description: CascadeDescription, first: Size, size: Size | None = None
) -> tuple[Size, ...]:
    """Return `first`, the size of a given picture, and the sizes after each relay pass over it.

    size: of the last one; None is one pass. Raises InputError on sizes that the relay cannot make.
    """
    if not has_relay(description):
        raise InputError("this cascade has no relay stage, which enlarges pictures")
    step = multiple_of(description, "relay")
    size = first.times(2) if size is None else size
    passes = max(size.height // first.height, 1).bit_length() - 1
    if passes < 1 or passes > MAX_PASSES or first.times(1 << passes) != size:
        allowed = ", ".join(str(first.times(1 << n)) for n in range(1, MAX_PASSES + 1))
        raise InputError(f"size {size}: a picture of {first} becomes {allowed}; give one of these")
    if not first.times(2).is_multiple(step):
        raise InputError(
            f"a picture of {first}: the relay takes heights and widths that are multiples of"
            f" {max(step // 2, 1)}"
        )
    return tuple(first.times(1 << n) for n in range(passes + 1))
