"""What a recipe says of an adapter, typed and checked, beside the stage that it changes."""

import dataclasses

from cv3jax.fields import (
    PATH,
    SWITCH,
    Described,
    Rule,
    check,
    exactly,
    field,
    number,
    one_of,
    whole,
)
from cv3jax.lora.targets import GROUPS, names_of
from cv3jax.training.settings import StageSettings

# the stage's fields that mean something else for an adapter, or of which it allows less
OWN = {
    "stage": Described("Name of the stage in the cascade.", one_of("base", "relay")),
    "init_from": Described(
        "Checkpoint whose stage is adapted; it is frozen. None: that of config.cascade.", PATH
    ),
    "model.w_dim": Described(
        "Width of the guidance-weight embedding; always 0, because a distilled stage is not trained"
        " further by the plain loss.",
        exactly(0, "int"),
    ),
    "optim.posthoc": Described(
        "Snapshots of averages for `cv3jax ema`; always 0, because an adapter is not averaged so.",
        exactly(0, "int"),
    ),
    "train.export_every": Described(
        "Steps between two writes of WORKDIR/lora; 0: with every checkpoint alone.", whole(0)
    ),
}
_TARGETS = Rule(
    "str",
    f"one or more of {', '.join(GROUPS)} or of patterns of layers, with commas between",
    lambda value: isinstance(value, str),
    lambda value: bool(names_of(value)),
    ("", " , "),
)


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """All that a recipe says of an adapter (`configs/common_lora.py`).

    Raises:
        InputError: a field out of range.
    """

    stage: StageSettings
    rank: int = field("Rank of every layer's adapter.", whole(1, 1024), 16)
    alpha: float = field(
        "Scale of the adapters: they are multiplied by alpha / rank.", number(above=0), 16.0
    )
    rslora: bool = field(
        "Whether to multiply by alpha / √rank instead (arXiv 2312.03732), so that large ranks learn"
        " as fast as small ones.",
        SWITCH,
        False,
    )
    dropout: float = field(
        "Share of the values that an adapter reads which are set to 0 in training.",
        number(0, below=1),
        0.0,
    )
    dora: bool = field(
        "Whether to train the lengths of the matrices' columns too (DoRA, arXiv 2402.09353).",
        SWITCH,
        False,
    )
    base_dtype: str = field(
        "Type of the frozen matrices: that in which they compute, or int8 in the UNet's blocks,"
        " which halves bfloat16's memory and rounds the base.",
        one_of("computed", "int8"),
        "computed",
    )
    targets: str = field(
        "Which layers get an adapter; a pattern such as *cross_attention* is matched with the paths"
        " of the layers.",
        _TARGETS,
        "attention,feed_forward",
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "lora")
        for name, value in (
            ("stage", self.stage.stage),
            ("optim.posthoc", self.stage.optim.posthoc),
            ("model.w_dim", self.stage.model.get("w_dim", 0)),
        ):
            OWN[name].check(name, value)

    @property
    def scale(self) -> float:
        """The factor on down · up."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    @property
    def base(self) -> str | None:
        """The checkpoint whose stage is adapted."""
        return self.stage.init_from or self.stage.cascade

    @property
    def part(self) -> str:
        """The name of that stage in its cascade."""
        return self.stage.init_part or self.stage.stage
