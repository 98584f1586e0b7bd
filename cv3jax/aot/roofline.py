"""Compute how fast a compiled program can run at best on a chip, and how long a recipe takes.

Compute, memory and interconnect each have a time in which they would be done alone. The longest of
the three is the roofline. The bound on MFU is the useful FLOPs (without recomputation) per second
at the roofline, over the peak of the chips.
"""

import functools
from typing import NamedTuple

from cv3jax.aot.collectives import Collective
from cv3jax.distributed.chips import Chip, group_bandwidth


class Roofline(NamedTuple):
    """The seconds of one execution by what bounds it."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        """The longest of the three."""
        return max(self)


def roofline(
    chip: Chip,
    shape: tuple[int, ...],
    places: list[tuple[int, ...]],
    *,
    flops: int,
    traffic: int,
    moved: list[Collective],
) -> Roofline:
    """Return the roofline of a program.

    places: where in `shape` each chip of the program is, in the program's order. flops: of the
    whole program over all chips. traffic: bytes per chip. moved: the result of `collectives`; they
    run one after the other, each as fast as its slowest group.
    """

    @functools.cache
    def bandwidth(groups: tuple[tuple[int, ...], ...]) -> float:
        return min(
            group_bandwidth(chip, shape, [places[number] for number in group]) for group in groups
        )

    return Roofline(
        compute=flops / len(places) / chip.flops,
        memory=traffic / chip.bandwidth,
        interconnect=sum(one.total / bandwidth(one.groups) for one in moved),
    )


def mfu_bound(chip: Chip, devices: int, useful: int, roof: Roofline) -> float:
    """Return the largest possible MFU. useful: FLOPs without recomputation."""
    return useful / (devices * chip.flops * roof.seconds) if roof.seconds else 0.0


def chip_hours(
    chip: Chip, devices: int, useful: int, roof: Roofline | None, steps: int, mfu: float
) -> dict[str, float | None]:
    """Return an estimate of `steps` steps alone.

    It has no compilation, no checkpoints and no waiting for data. roof: None where there is no
    program; then there is no figure at the roofline.
    """
    at_mfu = steps * useful / (chip.flops * mfu) / 3600
    at_roofline = None if roof is None else steps * roof.seconds * devices / 3600
    return {
        "steps": steps,
        "mfu": mfu,
        "chip_hours_at_roofline": at_roofline,
        "chip_hours_at_mfu": at_mfu,
        "days_at_mfu": at_mfu / devices / 24,
    }
