"""What a recipe says of its optimizer, typed and checked."""

import dataclasses
import math

from cv3jax.fields import TEXT, Rule, check, field, number, one_of, whole
from cv3jax.optim import DECAYS, MOMENTS, OPTIMIZERS

_MEAN = number(0, below=1)


def _factors(text: str) -> tuple[tuple[str, float], ...]:
    """Return (pattern, factor) of "PATTERN:FACTOR" with commas between. Raises ValueError."""
    found = []
    for one in filter(None, (part.strip() for part in text.split(","))):
        pattern, colon, factor = one.rpartition(":")
        if not (colon and pattern and 0 < float(factor) < math.inf):
            raise ValueError(one)
        found.append((pattern, float(factor)))
    return tuple(found)


def _are_factors(text: str) -> bool:
    try:
        _factors(text)
    except ValueError:
        return False
    return True


_PATTERNS = dataclasses.replace(TEXT, right="patterns with commas between, or empty")
_FACTORS = Rule(
    "str",
    "patterns with :FACTOR, above 0, and commas between, such as mid_*:0.5, or empty",
    TEXT.typed,
    _are_factors,
    ("mid_*", "mid_*:0", ":2", "mid_*:fast"),
)


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
    posthoc: int = field(
        "Snapshots over the run of two averages of the parameters, from which `cv3jax ema` makes an"
        " EMA of another length afterwards; the two take twice the parameters' memory; 0: none.",
        whole(0, 1000),
        0,
    )
    freeze: str = field(
        "Parameters that are not trained: patterns of their paths, with commas between, such as"
        " down_*,*/self_attention; empty: none.",
        _PATTERNS,
        "",
    )
    rates: str = field(
        "Factors on the learning rate of some parameters: patterns with :FACTOR, such as"
        " mid_*:0.5,*/cross_attention:2; the first that fits counts; empty: none.",
        _FACTORS,
        "",
    )
    turns: int = field(
        "Turns that muon's matrices take: each moves in one of so many updates, so many times as"
        " far, which saves time in small batches; 1: all move in every update.",
        whole(1, 16),
        1,
    )
    renew: int = field(
        "Turns of a muon matrix from one computation of its orthogonal map to the next, which saves"
        " time too; 1: it is computed in every turn.",
        whole(1, 100),
        1,
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "optim")

    @property
    def frozen(self) -> tuple[str, ...]:
        """Return the patterns of what is not trained."""
        return tuple(filter(None, (one.strip() for one in self.freeze.split(","))))

    @property
    def factors(self) -> tuple[tuple[str, float], ...]:
        """Return the patterns of what has another learning rate, each with its factor."""
        return _factors(self.rates)
