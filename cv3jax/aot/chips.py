"""What a chip can do: the figures of its data sheet, against which a compiled program is held.

bfloat16 products without sparsity; GB are 10^9 bytes; a link's figure is one direction of it.
Sources:
TPUs: cloud.google.com/tpu/docs/v5e, /v5p and /v6e; a link is the interconnect's bandwidth a chip
over its ports: 1600 Gb/s over 4, 1200 GB/s in both directions over 6, 3584 Gb/s over 4. GPUs:
NVIDIA's data sheets of the H100 SXM, H200 SXM and A100 SXM 80 GB; NVLink is half of their total of
both directions; the network is that of NVIDIA's eight-GPU systems, a 400 Gb/s (A100: 200 Gb/s)
adapter a GPU.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Chip(NamedTuple):
    title: str
    flops: float  # bfloat16 a second
    memory: float  # bytes
    bandwidth: float  # of the memory, bytes a second
    link: float  # bytes a second, one direction: of one torus link, or of all of a GPU's NVLinks
    axes: int  # of the torus; 0: a switch
    ring: int  # an axis of this size, or a multiple of it, wraps round
    network: float  # bytes a second a chip, one direction, beyond the links

    @property
    def tpu(self) -> bool:
        return self.axes > 0


CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 16e9, 819e9, 50e9, 2, 16, 0),
    "v5p": Chip("TPU v5p", 459e12, 95e9, 2765e9, 100e9, 3, 4, 0),
    "v6e": Chip("TPU v6e", 918e12, 32e9, 1640e9, 112e9, 2, 16, 0),
    "h100": Chip("NVIDIA H100 SXM 80 GB", 989e12, 80e9, 3350e9, 450e9, 0, 0, 50e9),
    "h200": Chip("NVIDIA H200 SXM 141 GB", 989e12, 141e9, 4800e9, 450e9, 0, 0, 50e9),
    "a100": Chip("NVIDIA A100 SXM 80 GB", 312e12, 80e9, 2039e9, 300e9, 0, 0, 25e9),
}
KINDS = {  # jax's `device_kind` of each
    "v5e": ("TPU v5 lite", "TPU v5e"),
    "v5p": ("TPU v5", "TPU v5p"),
    "v6e": ("TPU v6 lite", "TPU v6e"),
    "h100": ("NVIDIA H100 80GB HBM3",),  # not the PCIe card, which is slower
    "h200": ("NVIDIA H200", "NVIDIA H200 141GB HBM3e"),
    "a100": ("NVIDIA A100-SXM4-80GB",),
}
DOMAIN = 8  # GPUs behind one NVLink switch


def chip_of(device_kind: str) -> Chip | None:
    """The chip that jax calls so; None where it is not one of these."""
    return next((CHIPS[name] for name, kinds in KINDS.items() if device_kind in kinds), None)


def group_bandwidth(chip: Chip, shape: tuple[int, ...], group: Sequence[tuple[int, ...]]) -> float:
    """Bytes a second that a chip can send to the others of a group, at best; infinite where there
    are none. group: their places in `shape`.

    A TPU's group has the links of the torus axes (`shape`) that it extends over. Along an axis that
    wraps round it has both directions if it fills it, and so has a pair, whose other direction
    serves another pair; else it is a line, whose ends send one way only. GPUs (`shape`: partitions
    × hosts × GPUs) have NVLink within as many hosts of a partition as make eight, or else the
    network.
    """
    if len(set(group)) == 1:
        return math.inf
    if not chip.tpu:
        hosts = max(DOMAIN // shape[2], 1)
        return (
            chip.network
            if len({(at[0], at[1] // hosts, at[2] // DOMAIN) for at in group}) > 1
            else chip.link
        )
    extents = [
        (len(set(along)), size)
        for along, size in zip(zip(*group, strict=True), shape, strict=False)
    ]
    return sum(
        chip.link * (2 if size % chip.ring == 0 and extent in (2, size) else 1)
        for extent, size in extents
        if extent > 1
    )
