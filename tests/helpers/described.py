"""Make descriptions of stages for tests of the code that reads them."""

from typing import Any

from cv3jax.checkpoints.description import Distilled, StageDescription

STARTS = {"base": 1000, "relay": 40}


def stage(name: str = "base", **changes: Any) -> StageDescription:
    """Return the description of an undistilled stage of the tiny recipe, with `changes`."""
    fields = {
        "kind": name,
        "model": {"w_dim": 0},
        "text_width": 32,
        "prediction": "v",
        "factor": 8,
        "image_size": 32,
        "start": STARTS[name],
        "steps": 4,
        "guidance": 1.5,
        "eta": 0.0,
        "form": "released",
        "blur": "none" if name == "base" else "linear",
    }
    return StageDescription(**{**fields, **changes})


def distilled_to(steps: int, w=(1.0, 4.0), **changes) -> dict:
    """Return the fields of `stage` that make it a distilled, guidance-conditioned stage.

    It takes so many steps, for guidance weights `w`.
    """
    return {
        "model": {"w_dim": 512},
        "steps": steps,
        "distilled": Distilled(steps, w),
        **changes,
    }
