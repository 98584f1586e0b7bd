"""What Prometheus reads: requests, jobs, pictures, errors, and the engine's own gauges."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

PREFIX = "cv3jax"
_BUCKETS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """The metrics of one server, in a registry of its own."""

    def __init__(self, gauges: Callable[[], dict[str, float]]):
        """Create the metrics. `gauges` returns those of the moment, as `Engine.gauges` does."""
        self._registry = CollectorRegistry()
        self._requests = Counter(
            f"{PREFIX}_requests",
            "Answered requests.",
            ["route", "status"],
            registry=self._registry,
        )
        self._seconds = Histogram(
            f"{PREFIX}_request_seconds",
            "Seconds from a request's header to the end of its answer.",
            ["route"],
            buckets=_BUCKETS,
            registry=self._registry,
        )
        self._counters = {
            name: Counter(f"{PREFIX}_{name}", text, ["kind"], registry=self._registry)
            for name, text in (
                ("jobs", "Jobs that were accepted."),
                ("pictures", "Pictures that were drawn, or withheld by the safety check."),
                ("errors", "Failures of drawing, of the disk and of the program."),
                ("refused", "Requests that were refused, by the code of their error."),
            )
        }
        self._gauges = gauges
        self._registry.register(self)

    def count(self, name: str, *, kind: str) -> None:
        """Count one of jobs, pictures, errors or refused."""
        self._counters[name].labels(kind).inc()

    def answered(self, route: str, status: int, seconds: float) -> None:
        """Count an answered request; route: its pattern, not what the client wrote."""
        self._requests.labels(route, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def collect(self) -> Iterator[Metric]:
        """Yield the engine's gauges of the moment.

        Those of a lane are called `name{lane="…"}`, and those that only grow end in _total.
        """
        families: dict[str, Metric] = {}
        for key, value in self._gauges().items():
            name, _, lane = key.removesuffix('"}').partition('{lane="')
            if name not in families:
                text = (
                    f"{name.removesuffix('_total').replace('_', ' ').capitalize()} of the engine."
                )
                kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
                families[name] = kind(f"{PREFIX}_engine_{name}", text, labels=["lane"] * bool(lane))
            families[name].add_metric([lane] if lane else [], value)
        yield from families.values()

    def text(self) -> bytes:
        """Return all metrics as Prometheus reads them."""
        return generate_latest(self._registry)
