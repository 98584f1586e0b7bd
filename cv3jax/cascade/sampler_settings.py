"""How a stage is sampled: what a caller chooses, and what the stage's description says."""

import dataclasses

import numpy as np

from cv3jax.checkpoints.description import StageDescription


@dataclasses.dataclass(frozen=True)
class SamplerSettings:
    """What a caller chooses of a stage's sampling. None: as the stage's description says."""

    steps: int | None = None
    guidance: float | np.ndarray | None = None  # w, one for all rows or [B]
    eta: float | None = None
    form: str | None = None

    def of(self, stage: StageDescription) -> "SamplerSettings":
        """Returns these settings with the stage's where they are None."""
        return SamplerSettings(
            *(
                getattr(stage if getattr(self, field.name) is None else self, field.name)
                for field in dataclasses.fields(self)
            )
        )


AS_DESCRIBED = SamplerSettings()
