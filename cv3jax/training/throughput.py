"""What a log line says of a run's speed and memory: images a second, MFU, learning rates, bytes.

Nothing here waits for a device. FLOPs are counted once, from the traced programs, by
`kernels.flops`: XLA's own count takes a scan's body once, so it would leave out all but one of the
microbatches. They are those of an update over all devices: encoders, forward and backward pass,
without what remat computes again. The peak is that of the chip's data sheet; where the chip is in
no table, as a CPU is not, there is no MFU.
"""

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import jax
import numpy as np
import psutil

from cv3jax.distributed.chips import chip_of
from cv3jax.distributed.host_memory import free_bytes
from cv3jax.kernels.flops import count_jaxpr
from cv3jax.optim.learning_rate import learning_rate
from cv3jax.training.optim_settings import OptimSettings

GB = 1e9
# (updates before this one, those of them that were skipped) → name → learning rate
Rates = Callable[[int, int], dict[str, float]]


class Speed(NamedTuple):
    """What a run's speed is computed from."""

    images: int = 0  # of an update, over all devices; 0: no figure of it
    # a placed batch → FLOPs of its update over all devices, or None where they cannot be counted
    flops: Callable[[Any], int | None] = lambda batch: None
    rates: Rates = lambda done, skipped: {}


class Throughput:
    """The updates since the last line, and what a line says of them."""

    def __init__(self, images: int, devices: Iterable[Any]):
        """Begin with none. images: of an update. devices: those of the mesh."""
        devices = list(devices)
        chip = chip_of(devices[0].device_kind)
        self._images, self._chips = images, len(devices)
        self._peak = chip.flops if chip else None
        self._local = [one for one in devices if one.process_index == jax.process_index()]
        self._updates, self._flops, self._counted = 0, 0, True

    def count(self, flops: int | None) -> None:
        """Count an update of so many FLOPs over all devices; None: nobody knows how many."""
        self._updates += 1
        self._flops += flops or 0
        self._counted = self._counted and flops is not None

    def line(self, seconds: float) -> dict[str, float]:
        """Return the figures of the updates since the last line.

        seconds: those in which the devices computed steps or waited for data.
        """
        figures: dict[str, float] = {}
        if seconds > 0 and self._images:
            rate = self._updates * self._images / seconds
            figures = {"images_per_second": rate, "images_per_second_per_chip": rate / self._chips}
        if seconds > 0 and self._updates and self._counted:
            rate = self._flops / seconds / self._chips
            figures["tflops_per_chip"] = rate / 1e12
            if self._peak:
                figures["mfu"] = rate / self._peak
        self._updates, self._flops, self._counted = 0, 0, True
        return figures

    def memory(self) -> dict[str, float]:
        """Return the memory in GB: of this process, free on its host, and of its fullest device.

        A device's is there where its backend reports it; that of a CPU does not.
        """
        figures = {
            "memory_host_gb": psutil.Process().memory_info().rss / GB,
            "memory_host_free_gb": free_bytes() / GB,
        }
        stats = [found for one in self._local if (found := one.memory_stats())]
        for name, key in {"used": "bytes_in_use", "peak": "peak_bytes_in_use"}.items():
            if known := [found[key] for found in stats if key in found]:
                figures[f"memory_device_{name}_gb"] = max(known) / GB
        return figures


def flops_of(programs: Iterable[tuple[Callable, tuple]]) -> int | None:
    """Return the FLOPs of jitted functions at the shapes of their arguments, recomputation apart.

    None where a loop's length is known only when it runs.
    """
    try:
        return sum(count_jaxpr(jitted.trace(*args).jaxpr).model for jitted, args in programs)
    except ValueError:
        return None


def stage_rates(optim: OptimSettings, steps: int) -> Rates:
    """Return the learning rates of a stage's run: "lr", and one of each pattern of optim.rates."""
    rate = learning_rate(
        optim.lr, warmup=optim.warmup, decay=optim.decay, steps=steps, final=optim.final, xp=np
    )
    return grouped(optim, lambda done, skipped: float(rate(done - skipped)))


def grouped(optim: OptimSettings, rate: Callable[[int, int], float]) -> Rates:
    """Return `rate` as "lr", and as "lr/PATTERN" times the factor of each of optim.rates."""

    def rates(done: int, skipped: int) -> dict[str, float]:
        now = rate(done, skipped)
        return {"lr": now, **{f"lr/{name}": now * factor for name, factor in optim.factors}}

    return rates
