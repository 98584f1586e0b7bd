"""Make a stage's sampler that has no network."""

from collections.abc import Callable

from cv3jax.cascade.stage_sampler import StageSampler


def one_step(run: Callable) -> StageSampler:
    """A sampler of one step, which is `run`; it begins with the noise, and `low` or the noise."""
    return StageSampler(1, lambda low, noise: (noise, noise if low is None else low), run)
