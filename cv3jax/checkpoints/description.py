"""What `cascade.json` says of a cascade: the sizes of its models, and what each stage was trained
for and is sampled with.
"""

import dataclasses
from typing import Any

from data_pipeline.io.errors import InputError

FORMAT = 2
STAGES = ("base", "relay")
NUMBER = (int, float)
FIELDS = {  # what a description must hold, and of which type
    "vae": {"model": dict, "scale": NUMBER},
    "t5": {"model": dict, "length": int},
    "stage": {
        "kind": str,
        "model": dict,
        "text_width": int,
        "prediction": str,
        "factor": int,
        "image_size": int,
        "start": int,
        "steps": int,
        "guidance": NUMBER,
        "eta": NUMBER,
        "form": str,
    },
}


@dataclasses.dataclass(frozen=True)
class VaeDescription:
    """The autoencoder."""

    model: dict[str, Any]  # fields of `Autoencoder`
    # latents times this are of unit variance; None: not measured yet, of a run that has not ended
    scale: float | None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)  # what other programs noted

    @property
    def measured(self) -> float:
        """The scale. Raises InputError where it is not measured yet."""
        if self.scale is None:
            raise InputError(
                "the autoencoder has no latent scale yet: its run measures one at its end, or every"
                " --config.train.export_every steps; let the run finish"
            )
        return self.scale

    @classmethod
    def from_json(cls, section: dict) -> "VaeDescription":
        """Returns the description of a `vae` section of the right fields and types."""
        return cls(section["model"], section["scale"], _others(section, FIELDS["vae"]))

    def to_json(self) -> dict[str, Any]:
        """Returns the section as it was read."""
        return {**self.extra, "model": self.model, "scale": self.scale}


@dataclasses.dataclass(frozen=True)
class TextDescription:
    """The text encoder and its tokenizer."""

    model: dict[str, Any]  # fields of `T5Encoder`
    length: int  # tokens of a prompt
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, section: dict) -> "TextDescription":
        """Returns the description of a `t5` section of the right fields and types."""
        return cls(section["model"], section["length"], _others(section, FIELDS["t5"]))

    def to_json(self) -> dict[str, Any]:
        """Returns the section as it was read."""
        return {**self.extra, "model": self.model, "length": self.length}


@dataclasses.dataclass(frozen=True)
class Distilled:
    """What a stage was distilled to: it can do nothing else."""

    steps: int
    w: tuple[float, float] | None  # range of guidance weights; None: not known
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_json(cls, section: dict) -> "Distilled":
        """Returns the description of a `distilled` section that `_is_distilled`."""
        w = section["w"]
        return cls(
            section["steps"], None if w is None else tuple(w), _others(section, ("steps", "w"))
        )

    def to_json(self) -> dict[str, Any]:
        """Returns the section as it was read."""
        return {
            **self.extra,
            "steps": self.steps,
            "w": None if self.w is None else list(self.w),
        }


@dataclasses.dataclass(frozen=True)
class StageDescription:
    """A base or relay stage: its UNet, what it was trained for, how it is sampled by default."""

    kind: str  # "base" or "relay"
    model: dict[str, Any]  # fields of `UNet`
    text_width: int  # of the text features that it reads
    prediction: str
    factor: int  # pixels a latent's side
    image_size: int  # side in pixels
    start: int  # t from which a relay stage starts
    steps: int
    guidance: float
    eta: float
    form: str
    blur: str | None = None  # of the training schedule; None: not known
    distilled: Distilled | None = None
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def w_dim(self) -> int:
        """The width in which the UNet is told the guidance weight; 0 where it is guided."""
        return self.model.get("w_dim", 0)

    @classmethod
    def from_json(cls, section: dict) -> "StageDescription":
        """Returns the description of a stage's section of the right fields and types."""
        more = {}
        if isinstance(section.get("blur"), str):
            more["blur"] = section["blur"]
        if "distilled" in section:
            more["distilled"] = Distilled.from_json(section["distilled"])
        known = {name: section[name] for name in FIELDS["stage"]}
        return cls(**known, **more, extra=_others(section, (*known, *more)))

    def to_json(self) -> dict[str, Any]:
        """Returns the section as it was read."""
        section = {**self.extra, **{name: getattr(self, name) for name in FIELDS["stage"]}}
        if self.blur is not None:
            section["blur"] = self.blur
        if self.distilled is not None:
            section["distilled"] = self.distilled.to_json()
        return section


@dataclasses.dataclass(frozen=True)
class CascadeDescription:
    """The parts of a cascade, or of as much of one as there is."""

    vae: VaeDescription | None = None
    t5: TextDescription | None = None
    stages: dict[str, StageDescription] = dataclasses.field(default_factory=dict)
    # of the file; one of format 1 stays so when it is written again
    format: int = FORMAT
    extra: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def parts(self) -> tuple[str, ...]:
        """The names of the parts that are there: vae, t5, the stages by name."""
        encoders = (name for name in ("vae", "t5") if getattr(self, name) is not None)
        return (*encoders, *sorted(self.stages))

    def section(self, part: str) -> VaeDescription | TextDescription | StageDescription:
        """Returns the description of one of `parts`."""
        return self.stages[part] if part in self.stages else getattr(self, part)

    def with_stage(self, name: str, stage: StageDescription) -> "CascadeDescription":
        """Returns the description with `stage` beside the other stages, or in its place."""
        return dataclasses.replace(self, stages={**self.stages, name: stage})

    @classmethod
    def from_json(cls, value: Any, where: str) -> "CascadeDescription":
        """Returns the description that the JSON of the file `where` holds.

        Raises InputError, with `where`, on one of another format or of wrong fields.
        """
        if not isinstance(value, dict) or value.get("format") not in (1, FORMAT):
            raise InputError(f"{where} is not a cascade description of format {FORMAT}")
        if value["format"] == 1:
            value = _widened(value)
        if problem := _misfit(value):
            raise InputError(f"{where} is damaged: {problem}")
        return cls(
            VaeDescription.from_json(value["vae"]) if "vae" in value else None,
            TextDescription.from_json(value["t5"]) if "t5" in value else None,
            {name: StageDescription.from_json(stage) for name, stage in value["stages"].items()},
            value["format"],
            _others(value, ("vae", "t5", "stages", "format")),
        )

    def to_json(self) -> dict[str, Any]:
        """Returns what `cascade.json` holds of it."""
        encoders = {name: getattr(self, name) for name in ("vae", "t5")}
        return {
            **self.extra,
            **{name: one.to_json() for name, one in encoders.items() if one is not None},
            "stages": {name: stage.to_json() for name, stage in self.stages.items()},
            "format": self.format,
        }


def _others(section: dict, known: Any) -> dict[str, Any]:
    """What a section holds beside the fields `known`, which is kept when it is written again."""
    return {name: value for name, value in section.items() if name not in known}


def _widened(value: dict) -> dict:
    """Returns format 1 with what it lacks: its stages always stood beside the text encoder whose
    features they read.
    """
    try:
        width, stages = value["t5"]["model"]["channels"], value["stages"].items()
    except (AttributeError, KeyError, TypeError):  # what is wrong with it is said next
        return value
    wide = {
        name: {"text_width": width, **stage} if isinstance(stage, dict) else stage
        for name, stage in stages
    }
    return {**value, "stages": wide}


def _misfit(value: dict) -> str | None:
    """What is wrong with a description from outside: its names become paths and its values
    sizes.
    """
    stages = value.get("stages")
    if not isinstance(stages, dict) or (foreign := sorted(set(stages) - set(STAGES))):
        return f"stages must be of {' and '.join(STAGES)}" + (
            f", not {foreign[0]!r}" if isinstance(stages, dict) else ""
        )
    sections = {
        **{name: FIELDS[name] for name in ("vae", "t5") if name in value},
        **dict.fromkeys(stages, FIELDS["stage"]),
    }
    for name, fields in sections.items():
        section = stages[name] if name in stages else value[name]
        for field, kinds in fields.items():
            if not isinstance(section, dict) or not isinstance(section.get(field), kinds):
                return f"{name} has no valid {field}"
    for name, stage in stages.items():
        if "distilled" in stage and not _is_distilled(stage["distilled"]):
            return f"{name} has no valid distilled"
        if "t5" in value and value["t5"]["model"].get("channels") != stage["text_width"]:
            return (
                f"the {name} reads text features of width {stage['text_width']}, but t5 makes width"
                f" {value['t5']['model'].get('channels')}"
            )
    return None


def _is_distilled(section: Any) -> bool:
    """Whether an entry says for how many steps, and which w (None: not known), a stage was
    distilled.
    """
    if (
        not isinstance(section, dict)
        or not isinstance(section.get("steps"), int)
        or "w" not in section
    ):
        return False
    w = section["w"]
    return w is None or (
        isinstance(w, list) and len(w) == 2 and all(isinstance(x, (int, float)) for x in w)
    )
