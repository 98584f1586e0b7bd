"""What a recipe says of the loss of a base or relay stage, typed and checked."""

import dataclasses

from cv3jax.checkpoints.description_fields import STAGE
from cv3jax.diffusion import HUBER_SCHEDULES, NORMS, TIMESTEPS, WEIGHTINGS
from cv3jax.fields import SWITCH, check, field, number, one_of, require
from cv3jax.training.model_settings import same

AT_ZERO_SNR = ("v", "truncated")  # weightings that are not 0 where there is no signal


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """The loss of a base or relay stage. A distillation has its own, and lacks all but two."""

    prediction: str = same(STAGE["prediction"])
    text_drop: float = field(
        "Share of captions that are left out, so that classifier-free guidance works.", number(0, 1)
    )
    weighting: str = field(
        "How the x0 error is weighted by noise level.", one_of(*WEIGHTINGS), "eps"
    )
    gamma: float = field(
        "Largest weight of min_snr, which is min(1/σ², gamma) on the x0 error whatever the network"
        " predicts (arXiv 2303.09556).",
        number(above=0),
        5.0,
    )
    norm: str = field(
        "Norm of the x0 error; l2 is squared, the Huber norms are so below a threshold and linear"
        " above.",
        one_of(*NORMS),
        "l2",
    )
    huber_c: float = field(
        "Threshold of the Huber norms, in units of what the network predicts.",
        number(above=0),
        0.1,
    )
    huber_schedule: str = field(
        "How the threshold depends on the noise level (arXiv 2403.16728): not, or from 1 without"
        " noise to huber_c with most of it.",
        one_of(*HUBER_SCHEDULES),
        "constant",
    )
    offset_noise: float = field(
        "Standard deviation of the scalar that is added to a sample's noise.", number(0), 0.0
    )
    timesteps: str = field(
        "How t is drawn: uniform, or logit_normal (arXiv 2403.03206).",
        one_of(*TIMESTEPS),
        "uniform",
    )
    timestep_mean: float = field(
        "Mean of logit_normal; 0: most t are in the middle, above 0: more of them have more noise.",
        number(-10, 10),
        0.0,
    )
    timestep_spread: float = field(
        "Standard deviation of logit_normal.", number(above=0, high=10), 1.0
    )
    masked: bool = field(
        "Whether the loss is multiplied by the pictures' alpha channel, and their colours are taken"
        " as they are in place of on white.",
        SWITCH,
        False,
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "objective")


def check_zero_snr(blur: str, objective: ObjectiveSettings) -> None:
    """Raise InputError where schedule.zero_snr means nothing: there, arXiv 2305.08891 needs v."""
    right = "False for a relay, which starts from a picture and not from noise alone"
    require(blur == "none", "schedule.zero_snr", True, right)
    right = "v with schedule.zero_snr: where all is noise, eps says nothing of the picture"
    require(objective.prediction == "v", "objective.prediction", objective.prediction, right)
    right = f"{' or '.join(AT_ZERO_SNR)} with schedule.zero_snr: the others are 0 without signal"
    weighting = objective.weighting
    require(weighting in AT_ZERO_SNR, "objective.weighting", weighting, right)
