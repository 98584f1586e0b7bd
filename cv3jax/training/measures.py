"""What a stage offers to evaluations: held-out figures, and fixed pictures."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np


class HeldOut(NamedTuple):
    """The held-out figures of a stage."""

    better: dict[str, str]  # name → "higher" or "lower"
    figures: Callable[[Any], dict[str, float]]  # (EMA) → the figures; all processes call it


class Pictures(NamedTuple):
    """What is drawn, and how."""

    prompts: list[str]
    side: int
    draw: Callable[[Any], np.ndarray]  # (EMA) → uint8 [N, side, side, 3]; all processes call it
    reference: Callable[[], np.ndarray]  # () → held-out pictures of that side
