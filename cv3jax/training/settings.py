"""A stage's recipe as typed settings: parsed once by a command, checked as they are made.

The recipe a user writes stays an ml_collections file (`cv3jax.recipes`). Every field that is read
has its place in these classes, with its meaning and what it must be (`cv3jax.fields`); nothing
below takes a `ConfigDict`. JAX is not imported, so that fields can be shown at once.
"""

import dataclasses
import re
from typing import Any

from cv3jax.checkpoints.description_fields import STAGE
from cv3jax.diffusion import BLURS
from cv3jax.fields import (
    PATH,
    TEXT,
    Rule,
    check,
    check_given,
    each,
    field,
    number,
    one_of,
    optional,
    whole,
)
from cv3jax.kernels import KINDS
from cv3jax.training.data_settings import DataSettings
from cv3jax.training.model_settings import (
    AutoencoderFields,
    TextSettings,
    UNetFields,
    VaeSettings,
    same,
)
from cv3jax.training.objective_settings import ObjectiveSettings, check_zero_snr
from cv3jax.training.optim_settings import OptimSettings

# for the loop and for recipes of one's own code, which take all settings from here
from cv3jax.training.train_settings import TrainSettings as TrainSettings

STAGES = ("vae", "base", "relay")
_SIZE = Rule(
    "int",
    "at least 1, or -1",
    whole(1).typed,
    lambda value: value >= 1 or value == -1,
    (0, -2),
)
_SPAN = re.compile(r"(\d+):(\d+)")


def _is_span(text: str) -> bool:
    found = _SPAN.fullmatch(text)
    return not text or (bool(found) and 1 <= int(found[1]) <= int(found[2]))


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Sizes of the mesh's axes, as `cv3jax.distributed.mesh.make_mesh` takes them."""

    data: int = field("Devices over which images are split; -1: all that are left.", _SIZE, -1)
    fsdp: int = field(
        "Devices over which images and parameters are split; -1: all that are left; if data is -1"
        " too, as many as the fastest links join in a ring.",
        _SIZE,
        1,
    )
    tensor: int = field("Devices over which heads and feed-forward layers are split.", _SIZE, 1)
    context: int = field("Devices over which the height of latents is split.", _SIZE, 1)
    slices: int = field(
        "Groups of devices that a slower network connects; -1: as many as the devices report.",
        _SIZE,
        1,
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "mesh")


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """Images an update, and images a device and microbatch."""

    size: int = field("Images of an update, over all devices.", whole(1))
    per_device: int = field(
        "Images per device at a time; gradients are accumulated over the rest of an update's"
        " images.",
        whole(1),
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "batch")


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """The blur schedule and T_r, the index from which a relay starts."""

    blur: str = field(STAGE["blur"].meaning, one_of(*BLURS))
    start: int = same(STAGE["start"])
    zero_snr: bool = field(STAGE["zero_snr"].meaning, STAGE["zero_snr"].rule, False)

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "schedule")

    @property
    def relay(self) -> bool:
        """Return whether there is any blur."""
        return self.blur != "none"


@dataclasses.dataclass(frozen=True)
class AutoencoderObjective:
    """The loss of an autoencoder: reconstruction + KL + a learned perceptual distance."""

    kl_weight: float = field("Weight of the KL divergence of the latents.", number(0))
    perceptual_weight: float = field("Weight of the perceptual distance.", number(0))
    perceptual: str | None = field("File of LPIPS weights; none: no such distance.", PATH, None)

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "objective")


@dataclasses.dataclass(frozen=True)
class ProfileSettings:
    """Which steps a profiler traces, such as "10:15"."""

    steps: str = field(
        "Steps that a profiler traces into WORKDIR/profile, for TensorBoard; empty: none.",
        Rule(
            "str",
            "the first and the last step to trace, such as 10:15, or empty",
            TEXT.typed,
            _is_span,
            ("0:4", "15:10", "10"),
        ),
        "",
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "profile")

    @property
    def traced(self) -> range | None:
        """Return the steps to trace, the last one included; None where there are none."""
        found = _SPAN.fullmatch(self.steps)
        return range(int(found[1]), int(found[2]) + 1) if found else None


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """How the stage is sampled, in previews and by default ever after."""

    steps: int = same(STAGE["steps"])
    guidance: float = same(STAGE["guidance"])
    eta: float = same(STAGE["eta"])
    form: str = same(STAGE["form"])
    prompts: tuple[str, ...] = field(
        "Captions of the previews; (): the first captions of the data.",
        dataclasses.replace(each(TEXT, least=0), right="any number of texts"),
    )
    guidance_rescale: float = field(
        STAGE["guidance_rescale"].meaning, STAGE["guidance_rescale"].rule, 0.0
    )

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self, "sample")
        object.__setattr__(self, "prompts", tuple(self.prompts))


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """All that a recipe says of one stage; an autoencoder's has no text, vae, schedule, sample."""

    stage: str = field("Name of the stage in the cascade.", one_of(*STAGES))
    seed: int = field("Seed of parameters, data order and noise.", whole(0, 2**31 - 1))
    mesh: MeshSettings
    batch: BatchSettings
    data: DataSettings
    model: dict[str, Any]  # the fields of the model, as cascade.json has them
    objective: ObjectiveSettings | AutoencoderObjective
    optim: OptimSettings
    train: TrainSettings
    json: dict[str, Any]  # the whole recipe as plain values, which a checkpoint keeps
    profile: ProfileSettings = ProfileSettings()
    attention: str = field(
        "Kernel of the UNet's attention; auto: chosen by devices and sizes.",
        one_of(*KINDS),
        "auto",
    )
    cascade: str | None = field(
        "Checkpoint whose autoencoder and text encoder the stage is trained with; its other stages"
        " are exported together with the stage.",
        PATH,
        None,
    )
    init_from: str | None = field(
        "Checkpoint whose EMA the parameters start from; none: from scratch.", PATH, None
    )
    init_part: str | None = field("Which part of init_from.", optional(one_of(*STAGES)), None)
    text: TextSettings | None = None
    vae: VaeSettings | None = None
    schedule: ScheduleSettings | None = None
    sample: SampleSettings | None = None

    def __post_init__(self):
        """Raise InputError where a field breaks its rule."""
        check(self)
        model = AutoencoderFields if self.stage == "vae" else UNetFields
        check_given(model, self.model, "model")
        if self.schedule is not None and self.schedule.zero_snr:
            check_zero_snr(self.schedule.blur, self.objective)

    @property
    def masked(self) -> bool:
        """Return whether the loss is multiplied by the pictures' alpha channel."""
        return isinstance(self.objective, ObjectiveSettings) and self.objective.masked

    @property
    def relay(self) -> bool:
        """Return whether the stage is trained as a relay, from blurred and noisy latents."""
        return self.schedule is not None and self.schedule.relay
