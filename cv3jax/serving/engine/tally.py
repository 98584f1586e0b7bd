"""What the engine counts for `/metrics`."""

from collections.abc import Iterable, Mapping

from cv3jax.serving.engine.lanes import STEP, Lane


class Tally:
    """Units, rows and seconds by lane since the start."""

    def __init__(self, lanes: Iterable[Lane]):
        """Count from zero."""
        self._lanes = list(lanes)
        self._units = dict.fromkeys(self._lanes, 0)
        self._rows = dict.fromkeys(self._lanes, 0)
        self._places = dict.fromkeys(self._lanes, 0)
        self._seconds = dict.fromkeys(self._lanes, 0.0)
        self.pictures = self.failed = self.cancelled = 0

    def ran(self, lane: Lane, rows: int, shape: int, seconds: float) -> None:
        """Count a unit of `rows` rows in a program of `shape` rows."""
        self._units[lane] += 1
        self._rows[lane] += rows
        self._places[lane] += shape
        self._seconds[lane] += seconds

    def gauges(self, waiting: Mapping[Lane, int], under_way: int, running: int) -> dict[str, float]:
        """Return all counts by name, with the lane as Prometheus writes labels.

        waiting: rows by the lane of their next unit. under_way: rows that were in a unit. running:
        rows in the unit that runs now.
        """
        shown: dict[str, float] = {
            "rows": sum(waiting.values()),
            "rows_under_way": under_way,
            "rows_running": running,
            "pictures_total": self.pictures,
            "failed_total": self.failed,
            "cancelled_total": self.cancelled,
            "steps_total": sum(n for lane, n in self._rows.items() if lane.kind == STEP),
            "occupancy": sum(self._rows.values()) / max(sum(self._places.values()), 1),
            "busy_seconds_total": sum(self._seconds.values()),
        }
        for lane in self._lanes:
            of = f'{{lane="{lane}"}}'
            shown |= {
                f"rows_waiting{of}": waiting.get(lane, 0),
                f"units_total{of}": self._units[lane],
                f"unit_rows_total{of}": self._rows[lane],
                f"unit_places_total{of}": self._places[lane],
                f"unit_seconds_total{of}": self._seconds[lane],
            }
        return shown
