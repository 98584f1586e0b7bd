"""How fast a compiled program can go at best: its work against what the chip's data sheet gives,
and what a recipe then takes.

Compute, memory and interconnect each have a time in which they would be done if nothing else were
to be waited for; the longest is the roof. The bound on MFU is the useful FLOPs (without
recomputation) a second at that roof, over the chips' peak.
"""

import functools
from typing import NamedTuple

from cv3jax.aot.chips import Chip, group_bandwidth
from cv3jax.aot.collectives import Collective


class Roofline(NamedTuple):
    """Seconds of one execution."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
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
    """places: where in `shape` each chip of the program is, in its order; flops: of the whole
    program over all of them; traffic: bytes a chip; moved: as `collectives` gives them, one after
    the other, each as fast as its slowest group.
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
    """The largest MFU there can be. useful: FLOPs without recomputation."""
    return useful / (devices * chip.flops * roof.seconds) if roof.seconds else 0.0


def chip_hours(
    chip: Chip, devices: int, useful: int, roof: Roofline | None, steps: int, mfu: float
) -> dict[str, float | None]:
    """An estimate for `steps` steps, of the steps alone: no compilation, no checkpoints, no waiting
    for data.

    roof: None where there is no program, and then no figure at the roofline.
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
