"""The data sheets of chips, against which a compiled program is held.

FLOPs are bfloat16 products without sparsity. A GB is 10^9 bytes. A link's figure is one of its
directions.

Sources for TPUs: cloud.google.com/tpu/docs/v5e, /v5p and /v6e. A link is the interconnect's
bandwidth per chip divided by its ports: 1600 Gb/s by 4, 1200 GB/s in both directions by 6, 3584
Gb/s by 4.

Sources for GPUs: NVIDIA's data sheets of the H100 SXM, H200 SXM and A100 SXM 80 GB. NVLink is half
of their total of both directions. The network is that of NVIDIA's eight-GPU systems, which have one
adapter of 400 Gb/s (A100: 200 Gb/s) per GPU.

The RTX 4090 and the A10G have no NVLink: their link is PCIe 4.0 with 16 lanes, at 16 GT/s each. The
RTX 4090's products are those with float32 sums (NVIDIA's Ada white paper, appendix A). Its network
is an adapter of 10 Gb/s, which a machine for one or two cards has. The A10G's figures are those of
its data sheet; its network is an eighth of the 100 Gb/s of an EC2 g5.48xlarge. Its memory is what
the card reports, which is less than its 24 GB, because error correction takes a part.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple


class Chip(NamedTuple):
    """The figures of one kind of chip."""

    title: str
    flops: float  # bfloat16, per second
    memory: float  # bytes
    bandwidth: float  # of the memory, bytes per second
    # bytes per second in one direction: of one torus link, or of all of a GPU's links
    link: float
    axes: int  # of the torus; 0 for a switch
    ring: int  # an axis whose size is a multiple of this wraps around
    network: float  # bytes per second and chip in one direction, beyond the links

    @property
    def tpu(self) -> bool:
        """Whether the chip is a TPU."""
        return self.axes > 0


CHIPS = {
    "v5e": Chip("TPU v5e", 197e12, 16e9, 819e9, 50e9, 2, 16, 0),
    "v5p": Chip("TPU v5p", 459e12, 95e9, 2765e9, 100e9, 3, 4, 0),
    "v6e": Chip("TPU v6e", 918e12, 32e9, 1640e9, 112e9, 2, 16, 0),
    "h100": Chip("NVIDIA H100 SXM 80 GB", 989e12, 80e9, 3350e9, 450e9, 0, 0, 50e9),
    "h200": Chip("NVIDIA H200 SXM 141 GB", 989e12, 141e9, 4800e9, 450e9, 0, 0, 50e9),
    "a100": Chip("NVIDIA A100 SXM 80 GB", 312e12, 80e9, 2039e9, 300e9, 0, 0, 25e9),
    "rtx4090": Chip("NVIDIA GeForce RTX 4090 24 GB", 165.2e12, 24e9, 1008e9, 31.5e9, 0, 0, 1.25e9),
    "a10g": Chip("NVIDIA A10G 24 GB", 70e12, 23.6e9, 600e9, 31.5e9, 0, 0, 1.5625e9),
}
KINDS = {  # what JAX calls each (`device_kind`)
    "v5e": ("TPU v5 lite", "TPU v5e"),
    "v5p": ("TPU v5", "TPU v5p"),
    "v6e": ("TPU v6 lite", "TPU v6e"),
    "h100": ("NVIDIA H100 80GB HBM3",),  # not the PCIe card, which is slower
    "h200": ("NVIDIA H200", "NVIDIA H200 141GB HBM3e"),
    "a100": ("NVIDIA A100-SXM4-80GB",),
    "rtx4090": ("NVIDIA GeForce RTX 4090",),
    "a10g": ("NVIDIA A10G",),
}
DOMAIN = 8  # GPUs of one machine, or behind one NVLink switch


def chip_of(device_kind: str) -> Chip | None:
    """Return the chip whose `device_kind` in JAX this is, or None where it is not in CHIPS."""
    return next((CHIPS[name] for name, kinds in KINDS.items() if device_kind in kinds), None)


def group_bandwidth(chip: Chip, shape: tuple[int, ...], group: Sequence[tuple[int, ...]]) -> float:
    """Return the bytes per second that a chip can at best send to the others of its group.

    shape: the torus axes of TPUs, or partitions × hosts × GPUs. group: the places of its chips in
    `shape`. The bandwidth is infinite for a group of one.

    A group of TPUs has the links of the torus axes that it extends over. Along an axis that wraps
    around, a group that fills the axis has both directions. So has a pair, because its other
    direction serves another pair. Any other group is a line, whose ends send one way only.

    GPUs have their links as far as the group stays within the hosts of one partition that together
    have eight GPUs. Otherwise they have the network.
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
