"""Read a server's `/metrics` before and after a load: what each lane of the engine did between."""

import math
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

from cv3jax.serving.http.metrics import PREFIX
from data_pipeline.io.errors import InputError, first_line

_ENGINE = f"{PREFIX}_engine_"
_UNITS = ("unit_rows_total", "unit_places_total", "units_total", "unit_seconds_total")
MAX_SAMPLES = 1024  # of the engine
Samples = dict[tuple[str, str], float]  # (name, lane or "") → value


def engine_samples(text: str) -> Samples:
    """Return the engine's samples in what `/metrics` answered, by name and lane.

    Raises InputError where it is not in Prometheus's form.
    """
    try:
        found = {
            (sample.name.removeprefix(_ENGINE), sample.labels.get("lane", "")[:80]): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name.startswith(_ENGINE) and math.isfinite(sample.value)
        }
    except (ValueError, LookupError, TypeError, AttributeError) as e:  # as the parser has them
        said = first_line(e, 80)
        raise InputError(f"/metrics of the server is not in Prometheus's form ({said})") from e
    if len(found) > MAX_SAMPLES:
        raise InputError(f"/metrics of the server has more than {MAX_SAMPLES:,} samples")
    return found


def between(before: Samples, after: Samples) -> dict[str, Any]:
    """Return the occupancy of all units, and rows, units and seconds of each lane that ran.

    Occupancy is the share of a program's rows that were requests' and no padding. It is None where
    the server does not say.
    """
    lanes = {}
    for lane in sorted({lane for _, lane in after if lane}):
        rows, places, units, seconds = (
            after.get((name, lane), 0.0) - before.get((name, lane), 0.0) for name in _UNITS
        )
        if units > 0 and places > 0:
            lanes[lane] = {
                "units": int(units),
                "rows": int(rows),
                "rows_per_unit": rows / units,
                "occupancy": rows / places,
                "seconds": seconds,
                "places": int(places),
            }
    places = sum(lane["places"] for lane in lanes.values())
    rows = sum(lane["rows"] for lane in lanes.values())
    return {"occupancy": rows / places if places else None, "lanes": lanes}
