"""The names of the metrics, as the command line checks them."""

from cv3jax.evaluation.metrics.registry import METRICS
from data_pipeline.io.errors import InputError

NAMES = tuple(METRICS)


def check_name(name: str) -> None:
    """Raise InputError, which lists the metrics, unless `name` is one of them."""
    if name not in NAMES:
        raise InputError(f"--metrics: no metric {name[:40]!r}; give some of {', '.join(NAMES)}")
