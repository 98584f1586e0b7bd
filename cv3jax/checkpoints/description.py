"""The content of `cascade.json`: model sizes, and how each stage was trained and is sampled."""

import dataclasses
from typing import Any

from cv3jax.checkpoints.description_checks import misfit, widened
from data_pipeline.io.errors import InputError

FORMAT = 2


@dataclasses.dataclass(frozen=True)
class VaeDescription:
    """The autoencoder."""

    model: dict[str, Any]  # fields of `Autoencoder`
    # latents times this have unit variance; None: not measured yet, because the run has not ended
    scale: float | None
    # matrix [z + 1][3]: a scaled latent and a constant → RGB in [-1, 1]; None: not fitted
    preview: list[list[float]] | None = None

    @property
    def measured(self) -> float:
        """The latent scale. Raises InputError where it is not measured yet."""
        if self.scale is None:
            raise InputError(
                "the autoencoder's latent scale is not measured yet; let its run finish, or have it"
                " measured every so many steps with --config.train.export_every"
            )
        return self.scale

    @classmethod
    def from_json(cls, section: dict) -> "VaeDescription":
        """Return the description of a `vae` section that passes `misfit`."""
        return cls(**section)

    def to_json(self) -> dict[str, Any]:
        """Return the section as it was read."""
        shown = {} if self.preview is None else {"preview": self.preview}
        return {"model": self.model, "scale": self.scale, **shown}


@dataclasses.dataclass(frozen=True)
class TextDescription:
    """The text encoder and its tokenizer."""

    model: dict[str, Any]  # fields of `T5Encoder`
    length: int  # tokens of a prompt

    @classmethod
    def from_json(cls, section: dict) -> "TextDescription":
        """Return the description of a `t5` section that passes `misfit`."""
        return cls(**section)

    def to_json(self) -> dict[str, Any]:
        """Return the section as it was read."""
        return {"model": self.model, "length": self.length}


@dataclasses.dataclass(frozen=True)
class Distilled:
    """What a stage was distilled for: it works with nothing else."""

    steps: int
    w: tuple[float, float] | None  # range of guidance weights; None: unknown

    @classmethod
    def from_json(cls, section: dict) -> "Distilled":
        """Return the description of a `distilled` section that passes `misfit`."""
        w = section["w"]
        return cls(section["steps"], None if w is None else tuple(w))

    def to_json(self) -> dict[str, Any]:
        """Return the section as it was read."""
        return {"steps": self.steps, "w": None if self.w is None else list(self.w)}


@dataclasses.dataclass(frozen=True)
class StageDescription:
    """A base or relay stage: its UNet, its training, and its default sampling."""

    kind: str  # "base" or "relay"
    model: dict[str, Any]  # fields of `UNet`
    text_width: int  # channels of the text features that it reads
    prediction: str
    factor: int  # pixels per latent pixel, per side
    image_size: int  # side in pixels
    start: int  # t at which a relay stage starts
    steps: int
    guidance: float
    eta: float
    form: str
    blur: str | None = None  # of the training schedule; None: unknown
    zero_snr: bool = False
    guidance_rescale: float = 0.0
    distilled: Distilled | None = None

    @property
    def w_dim(self) -> int:
        """The width of the UNet's guidance embedding; 0 where it is not guidance-conditioned."""
        return self.model.get("w_dim", 0)

    @classmethod
    def from_json(cls, section: dict) -> "StageDescription":
        """Return the description of a stage's section that passes `misfit`."""
        more = {}
        if "distilled" in section:
            more["distilled"] = Distilled.from_json(section["distilled"])
        return cls(**{**section, **more})

    def to_json(self) -> dict[str, Any]:
        """Return the section as it was read."""
        section = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        if self.distilled is not None:
            section["distilled"] = self.distilled.to_json()
        optional = ("blur", "zero_snr", "guidance_rescale", "distilled")
        return {name: one for name, one in section.items() if name not in optional or one}


@dataclasses.dataclass(frozen=True)
class CascadeDescription:
    """The parts of a cascade, or as many of them as there are."""

    vae: VaeDescription | None = None
    t5: TextDescription | None = None
    stages: dict[str, StageDescription] = dataclasses.field(default_factory=dict)
    # of the file; a file of format 1 keeps its format when it is written again
    format: int = FORMAT

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that are there: vae, t5, and the stages by name."""
        encoders = (name for name in ("vae", "t5") if getattr(self, name) is not None)
        return (*encoders, *sorted(self.stages))

    def section(self, part: str) -> VaeDescription | TextDescription | StageDescription:
        """Return the description of one of `parts`."""
        return self.stages[part] if part in self.stages else getattr(self, part)

    def with_stage(self, name: str, stage: StageDescription) -> "CascadeDescription":
        """Return the description with `stage` added, or in place of the stage of that name."""
        return dataclasses.replace(self, stages={**self.stages, name: stage})

    def computing_in(self, dtype: str) -> "CascadeDescription":
        """Return the description with all parts computing in `dtype`."""

        def changed(part: Any) -> Any:
            model = None if part is None else {**part.model, "dtype": dtype}
            return None if part is None else dataclasses.replace(part, model=model)

        stages = {name: changed(stage) for name, stage in self.stages.items()}
        return dataclasses.replace(self, vae=changed(self.vae), t5=changed(self.t5), stages=stages)

    @classmethod
    def from_json(cls, value: Any, where: str) -> "CascadeDescription":
        """Return the description that the JSON of the file `where` holds.

        Raises InputError that names `where` on another format or on wrong fields.
        """
        found = value.get("format") if isinstance(value, dict) else None
        if type(found) is not int or not 1 <= found <= FORMAT:
            raise InputError(
                f"{where} is not a cascade description of format 1 or {FORMAT}; give a checkpoint"
                " that this version can read"
            )
        if value["format"] == 1:
            value = widened(value)
        if problem := misfit(value):
            raise InputError(f"{where} is damaged: {problem}")
        return cls(
            VaeDescription.from_json(value["vae"]) if "vae" in value else None,
            TextDescription.from_json(value["t5"]) if "t5" in value else None,
            {name: StageDescription.from_json(stage) for name, stage in value["stages"].items()},
            value["format"],
        )

    def to_json(self) -> dict[str, Any]:
        """Return the content of `cascade.json`."""
        encoders = {name: getattr(self, name) for name in ("vae", "t5")}
        return {
            **{name: one.to_json() for name, one in encoders.items() if one is not None},
            "stages": {name: stage.to_json() for name, stage in self.stages.items()},
            "format": self.format,
        }
