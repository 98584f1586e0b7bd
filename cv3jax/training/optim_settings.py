"""What a recipe says of its optimizer, typed and checked."""

import dataclasses

from cv3jax.fields import check, field, number, one_of, whole
from cv3jax.optim import DECAYS, MOMENTS, OPTIMIZERS

_MEAN = number(0, below=1)


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """The optimizer and its learning rate. Without lr and ema, the train step brings its own."""

    kind: str = field(
        "The optimizer; muon takes the matrices between hidden states, adam the rest.",
        one_of(*OPTIMIZERS),
    )
    warmup: int = field("Updates in which the learning rate rises from 0 to lr.", whole(0))
    decay: str = field("How the learning rate falls after the warm-up.", one_of(*DECAYS))
    final: float = field(
        "Share of lr at the end of the decay; not used if decay is constant.", number(0, 1)
    )
    weight_decay: float = field("Decoupled weight decay of matrices.", number(0))
    clip: float = field(
        "Largest global norm of a gradient; a gradient with a larger norm is scaled down to it.",
        number(above=0),
    )
    b1: float = field("Decay of adam's first moment.", _MEAN)
    b2: float = field("Decay of adam's and adafactor's second moment.", _MEAN)
    momentum: float = field(
        "Decay of adafactor's momentum; 0: none, which saves its memory.",
        _MEAN,
    )
    moments: str = field("Type in which the moments are stored.", one_of(*MOMENTS))
    lr: float | None = field("Highest learning rate.", number(above=0), None)
    ema: float | None = field("Decay of the parameters' average, which is exported.", _MEAN, None)

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "optim")
