"""How a stage is sampled: the caller's choices, and the defaults of the stage's description."""

import dataclasses
from typing import Any

import numpy as np

from cv3jax.checkpoints.description import StageDescription


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
    """A caller's choices for sampling a stage; None stands for the stage's description."""

    steps: int | None = None
    guidance: float | np.ndarray | None = None  # w, one for all rows or [B]
    eta: float | None = None
    form: str | None = None
    # compute the text's keys and values once, and none for the rows without text; else at each step
    text_kv_cache: bool = True
    # side in pixels of the tiles in which larger pictures are predicted; 0: as a whole
    tile: int = 0
    whole: bool = False  # never choose tiles, even where the whole does not fit into memory
    # where a relay starts, as a share of its trained T_r in (0, 1]
    strength: float = 1.0
    # whether all rows of a batch are one picture: each then predicts its share of the tiles
    copies: bool = False

    def of(self, stage: StageDescription) -> "SamplerSettings":
        """Return these settings, with the stage's own where they are None."""
        described = {
            field.name: getattr(stage, field.name)
            for field in dataclasses.fields(self)
            if getattr(self, field.name) is None
        }
        return dataclasses.replace(self, **described)

    def unusual(self, stage: StageDescription) -> dict[str, Any]:
        """Return η, the form and the strength where they are not those of the stage."""
        own = {"eta": stage.eta, "form": stage.form, "strength": 1.0}
        chosen = self.of(stage)
        return {name: one for name in own if (one := getattr(chosen, name)) != own[name]}


AS_DESCRIBED = SamplerSettings()
