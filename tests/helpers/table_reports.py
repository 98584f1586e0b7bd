"""Write reports as `cv3jax evaluate` does, with figures that a test gives."""

import hashlib
import json
from pathlib import Path

from cv3jax.evaluation.protocol import digest


def write(
    out: Path, prompts: str, figures: dict[str, float], *, version="1", made_by=None, time=None
) -> Path:
    """Write a report of figures by name; `version` is a part of every scoring protocol."""
    out.mkdir(parents=True)
    scoring = {"metric": {"version": version}, "prompts": {"sha256": prompts, "count": 2}}
    head = {"kind": "picture", "better": "higher", "scoring": scoring}
    metrics: dict[str, dict] = {}
    for name, value in figures.items():
        figure = {"value": value, "low": value - 0.01, "high": value + 0.01, "n": 2, "prompts": 2}
        metric = metrics.setdefault(name.partition(".")[0], {**head, "figures": {}})
        metric["scoring_sha256"] = digest(scoring)
        metric["figures"][name] = figure
    (out / "scores.jsonl").write_bytes(b"")
    content = {
        "format": 1,
        "prompts": {"name": prompts},
        "drawing": {"made_by": made_by},
        "scores": {"sha256": hashlib.sha256(b"").hexdigest()},
        "metrics": metrics,
    } | ({} if time is None else {"time": time})
    (out / "report.json").write_text(json.dumps(content))
    return out


def timing(seconds: float, device: str = "H200", side: int = 1024) -> dict:
    """Return a time of four pictures."""
    return {
        "batch": 4,
        "warm_up": 1,
        "seconds": [seconds] * 3,
        "median": seconds,
        "a_picture": seconds / 4,
        "drawn_by": {"device": device, "size": [side, side], "dtype": "float16"},
    }
