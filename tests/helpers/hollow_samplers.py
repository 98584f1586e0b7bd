"""Make a stage's sampler that has no network."""

from collections.abc import Callable

from cv3jax.cascade.stage_sampler import StageSampler


def one_step(run: Callable) -> StageSampler:
    """Return a sampler of the single step `run`.

    It starts at the noise, with `low` as the mean, or the noise without one.
    """
    return StageSampler(1, lambda low, noise: (noise, noise if low is None else low), run)
