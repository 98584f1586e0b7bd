"""How a stage is sampled: the caller's choices, and the defaults of the stage's description."""

import dataclasses

import numpy as np

from cv3jax.checkpoints.description import StageDescription


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
    """A caller's choices for sampling a stage; None stands for the stage's description."""

    steps: int | None = None
    guidance: float | np.ndarray | None = None  # w, one for all rows or [B]
    eta: float | None = None
    form: str | None = None

    def of(self, stage: StageDescription) -> "SamplerSettings":
        """Return these settings, with the stage's own where they are None."""
        return SamplerSettings(
            *(
                getattr(stage if getattr(self, field.name) is None else self, field.name)
                for field in dataclasses.fields(self)
            )
        )


AS_DESCRIBED = SamplerSettings()
