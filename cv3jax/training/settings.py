"""A stage's recipe as typed settings: parsed once by a command, checked as they are made.

The recipe a user writes stays an ml_collections file (`cv3jax.recipes`, documented in
`configs/common.py`). Every field that is read has its place here, with what it must be; below this
module nothing takes a `ConfigDict`.
"""

import dataclasses
import math
from typing import TYPE_CHECKING, Any

from cv3jax.checkpoints.description import TextDescription
from cv3jax.diffusion import FORMS, PREDICTIONS, WEIGHTINGS
from cv3jax.models import REMATS
from cv3jax.recipes import require
from cv3jax.training import profiling
from cv3jax.training.data_settings import DataSettings

if TYPE_CHECKING:  # a wrong field is refused without jax
    from cv3jax.training.skipping import Skip

DTYPES = ("float32", "bfloat16")
STAGES = ("vae", "base", "relay")


def _one_of(field: str, value: Any, allowed: tuple[str, ...]) -> None:
    require(value in allowed, field, value, f"one of {', '.join(allowed)}")


@dataclasses.dataclass(frozen=True)
class MeshSettings:
    """Sizes of the mesh's axes, as `cv3jax.distributed.mesh.make_mesh` takes them."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    context: int = 1
    slices: int = 1


@dataclasses.dataclass(frozen=True)
class BatchSettings:
    """Images an update, and images a device and microbatch."""

    size: int
    per_device: int


@dataclasses.dataclass(frozen=True)
class TextSettings:
    """The text encoder's dtype, and a random encoder where the cascade brings none."""

    random: bool
    length: int
    vocab: int
    channels: int
    layers: int
    heads: int
    head_dim: int
    ff: int
    dtype: str

    def __post_init__(self):
        require(self.vocab >= 1, "text.vocab", self.vocab, "at least 1")
        require(self.dtype in DTYPES, "text.dtype", self.dtype, "float32 or bfloat16")

    @property
    def description(self) -> TextDescription:
        """What cascade.json says of the random T5Encoder."""
        fields = dataclasses.asdict(self)
        model = {name: fields[name] for name in fields if name not in ("random", "length")}
        return TextDescription(model, self.length)


@dataclasses.dataclass(frozen=True)
class VaeSettings:
    """The dtype in which the frozen autoencoder computes."""

    dtype: str

    def __post_init__(self):
        require(self.dtype in DTYPES, "vae.dtype", self.dtype, "float32 or bfloat16")


@dataclasses.dataclass(frozen=True)
class ScheduleSettings:
    """The blur schedule and T_r, the index from which a relay starts."""

    blur: str
    start: int

    @property
    def relay(self) -> bool:
        return self.blur != "none"


@dataclasses.dataclass(frozen=True)
class ObjectiveSettings:
    """The loss of a base or relay stage. A distillation has its own, and lacks all but two."""

    prediction: str
    text_drop: float
    weighting: str = "eps"
    gamma: float = 5.0
    norm: str = "l2"
    offset_noise: float = 0.0

    def __post_init__(self):
        _one_of("objective.prediction", self.prediction, PREDICTIONS)
        _one_of("objective.weighting", self.weighting, WEIGHTINGS)
        require(self.gamma > 0, "objective.gamma", self.gamma, "a positive number")
        drop = self.text_drop
        require(0 <= drop <= 1, "objective.text_drop", drop, "a probability, 0..1")
        require(self.offset_noise >= 0, "objective.offset_noise", self.offset_noise, "0 or more")


@dataclasses.dataclass(frozen=True)
class AutoencoderObjective:
    """The loss of an autoencoder: reconstruction + KL + a learned perceptual distance."""

    kl_weight: float
    perceptual_weight: float
    perceptual: str | None = None

    def __post_init__(self):
        for name in ("kl_weight", "perceptual_weight"):
            value = getattr(self, name)
            require(value >= 0, f"objective.{name}", value, "0 or more")


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """The optimizer and its learning rate. Without lr and ema, the train step brings its own."""

    kind: str
    warmup: int
    decay: str
    final: float
    weight_decay: float
    clip: float
    b1: float
    b2: float
    momentum: float
    moments: str
    lr: float | None = None
    ema: float | None = None

    def __post_init__(self):
        lr = self.lr
        require(lr is None or 0 < lr < math.inf, "optim.lr", lr, "a positive number")
        require(self.warmup >= 0, "optim.warmup", self.warmup, "0 or more")
        require(0 <= self.final <= 1, "optim.final", self.final, "0..1, a share of lr")
        fine = 0 <= self.weight_decay < math.inf
        require(fine, "optim.weight_decay", self.weight_decay, "0 or more")
        require(self.clip > 0, "optim.clip", self.clip, "a positive number")
        for name in ("b1", "b2", "momentum", "ema"):
            value = getattr(self, name)
            require(value is None or 0 <= value < 1, f"optim.{name}", value, "0..1, without 1")


@dataclasses.dataclass(frozen=True)
class TrainSettings:
    """How long a run is and how often it does what, in steps."""

    log_every: int
    save_every: int
    preview_every: int
    keep: int
    steps: int | None = None  # a distillation's rounds have their own
    keep_every: int = 0
    export_every: int = 0
    skip_nonfinite: int = 0
    skip_spike: float = 0.0

    def __post_init__(self):
        require(self.steps is None or self.steps >= 1, "train.steps", self.steps, "at least 1")
        for name in ("log_every", "save_every", "preview_every", "export_every"):
            value = getattr(self, name)
            require(value >= 0, f"train.{name}", value, "0 (only at the end) or more")
        require(self.keep >= 1, "train.keep", self.keep, "at least 1")
        for name in ("keep_every", "skip_nonfinite"):
            value = getattr(self, name)
            require(value >= 0, f"train.{name}", value, "0 (none) or more")
        spike = self.skip_spike
        fine = spike == 0 or (1 < spike < math.inf and self.skip_nonfinite > 0)
        right = "0 (none), or above 1 with train.skip_nonfinite, the most in a row, above 0"
        require(fine, "train.skip_spike", spike, right)

    @property
    def skip(self) -> "Skip":
        """Which updates are skipped."""
        from cv3jax.training.skipping import Skip

        return Skip(self.skip_nonfinite, self.skip_spike)


@dataclasses.dataclass(frozen=True)
class ProfileSettings:
    """Which steps a profiler traces, such as "10:15"."""

    steps: str = ""

    def __post_init__(self):
        right = "first and last step to trace, such as 10:15, or empty"
        try:
            profiling.steps_of(self.steps)
        except ValueError:
            require(False, "profile.steps", self.steps, right)


@dataclasses.dataclass(frozen=True)
class SampleSettings:
    """How the stage is sampled, in previews and by default ever after."""

    steps: int
    guidance: float
    eta: float
    form: str
    prompts: tuple[str, ...]

    def __post_init__(self):
        require(0 <= self.guidance < math.inf, "sample.guidance", self.guidance, "0 or more")
        require(0 <= self.eta <= 1, "sample.eta", self.eta, "0..1")
        _one_of("sample.form", self.form, FORMS)
        given = self.prompts
        fine = not isinstance(given, str) and all(isinstance(prompt, str) for prompt in given)
        right = "prompts for the previews, or none (): the first captions of the data"
        require(fine, "sample.prompts", given, right)
        object.__setattr__(self, "prompts", tuple(given))


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """All that a recipe says of one stage; an autoencoder's has no text, vae, schedule, sample."""

    stage: str
    seed: int
    mesh: MeshSettings
    batch: BatchSettings
    data: DataSettings
    model: dict[str, Any]  # the fields of the model, as cascade.json has them
    objective: ObjectiveSettings | AutoencoderObjective
    optim: OptimSettings
    train: TrainSettings
    json: dict[str, Any]  # the whole recipe as plain values, which a checkpoint keeps
    profile: ProfileSettings = ProfileSettings()
    attention: str = "auto"
    cascade: str | None = None
    init_from: str | None = None
    init_part: str | None = None
    text: TextSettings | None = None
    vae: VaeSettings | None = None
    schedule: ScheduleSettings | None = None
    sample: SampleSettings | None = None

    def __post_init__(self):
        require(0 <= self.seed < 2**31, "seed", self.seed, f"0..{2**31 - 1}")
        model = self.model
        if "channels" in model:
            require(model["channels"] >= 1, "model.channels", model["channels"], "at least 1")
        if "dtype" in model:
            require(model["dtype"] in DTYPES, "model.dtype", model["dtype"], "float32 or bfloat16")
        if "remat" in model:
            _one_of("model.remat", model["remat"], REMATS)
        if "channel_mult" in model:
            mult = model["channel_mult"]
            fine = len(mult) > 0 and min(mult) >= 1
            right = "one factor or more, each at least 1"
            require(fine, "model.channel_mult", mult, right)

    @property
    def relay(self) -> bool:
        """Whether the stage is trained as a relay, from blurred and noisy latents."""
        return self.schedule is not None and self.schedule.relay
