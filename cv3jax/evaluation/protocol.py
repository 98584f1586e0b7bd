"""What a score depends on, its hash, and what differs between two of them.

The scoring protocol has all that moves a score of the same pictures: the metric with its weights,
resize and library versions, the prompts, the pictures per prompt and their seeds, and the reference
of a distance between sets. Two figures compare only where it is equal. The drawing is what made the
pictures: checkpoint, steps, guidance, size, expansion. It is what one compares, so it may differ.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from cv3jax.evaluation.prompt_sets import PromptSet

SHOWN = 3  # differences that a message names


def digest(value: Any) -> str:
    """Return the SHA-256 of a value as canonical JSON: sorted names, no blanks, UTF-8.

    Raises ValueError or TypeError on what JSON cannot say, such as NaN.
    """
    text = json.dumps(
        value, sort_keys=True, ensure_ascii=False, separators=(",", ":"), allow_nan=False
    )
    return hashlib.sha256(text.encode()).hexdigest()


def metric_protocol(name: str, protocol: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a metric's score of one picture depends on; it is hashed with every score."""
    return {"metric": name, **protocol}


def scoring_protocol(
    metric: Mapping[str, Any],
    prompts: PromptSet,
    num: int,
    seeds: Sequence[int | None],
    reference: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return the scoring protocol of a metric's figures.

    Args:
        metric: of `metric_protocol`.
        prompts: the set that is scored over.
        num: pictures per prompt.
        seeds: of all pictures in order; None where a picture does not say its seed.
        reference: what a distance between sets is measured to.
    """
    known = not any(seed is None for seed in seeds)
    value: dict[str, Any] = {
        "metric": dict(metric),
        "prompts": {
            "name": prompts.name,
            "sha256": prompts.sha256,
            "count": len(prompts.prompts),
        },
        "num": num,
        "seeds": {"first": seeds[0], "sha256": digest(list(seeds))} if known else None,
    }
    return value if reference is None else {**value, "reference": dict(reference)}


def differences(ours: Any, theirs: Any, name: str = "") -> list[str]:
    """Return each field in which two protocols differ, with both values, one line each.

    The seeds do not count where either side's pictures do not say theirs. The name of a set does
    not count, because its hash does.
    """
    if name == "seeds" and (ours is None or theirs is None):
        return []
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return [
            line
            for key in sorted(ours.keys() | theirs.keys())
            if (name, key) != ("prompts", "name")
            for line in differences(
                ours.get(key, _MISSING), theirs.get(key, _MISSING), f"{name}.{key}" if name else key
            )
        ]
    if ours == theirs:
        return []
    return [f"{name} {_said(ours)} against {_said(theirs)}"]


def refusal(metric: str, lines: Sequence[str]) -> str:
    """Return the sentence that two reports differ in a metric's protocol."""
    more = f" and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
    return f"{metric}: {'; '.join(lines[:SHOWN])}{more}"


_MISSING = object()


def _said(value: Any) -> str:
    if value is _MISSING:
        return "nothing"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return f"{text[:48]}…" if len(text) > 64 else text
