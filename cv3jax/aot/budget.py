"""What a chain of recipes costs on some hardware: FLOPs are counted, and the MFU is assumed.

The FLOPs of an update are those of its programs' operations, without what is computed again. They
come from reports of `cv3jax compile`, and where there is none, from tracing the program, which
takes seconds. They do not depend on the hardware. Whether a step fits, and its bound on MFU, are
known only of a step that was compiled for it.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cv3jax.aot import topology
from cv3jax.aot.programs import encoders_of, program
from cv3jax.cascade.parts import build_model, model_shapes
from cv3jax.distillation.settings import DistillSettings
from cv3jax.distributed.chips import CHIPS, Chip
from cv3jax.kernels import flops
from cv3jax.models.t5 import T5Encoder
from cv3jax.training.settings import StageSettings
from data_pipeline.io import kept_fields
from data_pipeline.io.bounded_json import ParseError, load_json
from data_pipeline.io.errors import InputError

REPORT = {
    "config": kept_fields.text("The recipe."),
    "step": kept_fields.text("The program."),
    "topology": kept_fields.text("The hardware."),
    "images": kept_fields.whole("Images of an update.", 1, 10**9),
    "model_flops_per_step": kept_fields.number("FLOPs of an update.", 1, 1e24),
}
MOST_REPORTS = 1000
Settings = StageSettings | DistillSettings


class Step(NamedTuple):
    """A program of a recipe, and how often it runs."""

    name: str  # of `cv3jax compile --step`
    updates: int


@dataclasses.dataclass(frozen=True)
class Cost:
    """What a recipe costs.

    Attributes:
        recipe: its name.
        updates: of all its rounds.
        images: of an update.
        train: FLOPs of all updates of the stage itself.
        encoders: FLOPs of the frozen autoencoder and text encoder in all updates.
        text: those of the text encoder alone.
        fits: whether every program fits the hardware; None where one was not compiled for it.
        bound: the least bound on MFU of its programs; None as above.
    """

    recipe: str
    updates: int
    images: int
    train: float
    encoders: float
    text: float
    fits: bool | None
    bound: float | None

    @property
    def seen(self) -> int:
        """Images that the run sees in all."""
        return self.updates * self.images


def steps_of(settings: Settings) -> list[Step]:
    """Return the training programs of a recipe; a distillation has one for its later rounds."""
    if isinstance(settings, DistillSettings):
        first, *others = [one.updates for one in settings.rounds]
        return [Step("train", first), *([Step("later", sum(others))] if others else [])]
    return [Step("train", settings.train.steps)]


def read_reports(places: Iterable[Path]) -> list[dict[str, Any]]:
    """Return the reports in files of `compile --json`, `plan --json` and benchmarks, or in folders.

    Raises InputError where a file is no report.
    """
    paths = []
    for place in places:
        paths += sorted(place.glob("*.json")) if place.is_dir() else [place]
    if len(paths) > MOST_REPORTS:
        raise InputError(f"--reports: {len(paths):,} files; give at most {MOST_REPORTS:,}")
    found = []
    for path in paths:
        try:
            value = load_json(path, nan=True)
        except (OSError, ParseError) as e:
            raise InputError(f"--reports {path} cannot be read: {e}") from e
        several = value.get("results") if isinstance(value, dict) else None
        for one in several.values() if isinstance(several, dict) else [value]:
            if isinstance(one, dict) and "error" in one:
                continue
            if said := kept_fields.wrong(one, REPORT):
                raise InputError(
                    f"--reports {path} is no report of cv3jax compile ({said}); give files that its"
                    " --json or that of cv3jax plan wrote"
                )
            found.append(one)
    return found


def cost_of(
    recipe: str,
    settings: Settings,
    where: str,
    reports: list[dict[str, Any]],
    tell: Callable[[str], None],
) -> tuple[Cost, list[dict[str, Any]]]:
    """Return (the cost of a recipe on the hardware `where`, reports of the programs it traced).

    reports: those of earlier calls among them, so that no program is traced twice.
    tell: is told what is traced.
    """
    stage = settings.stage if isinstance(settings, DistillSettings) else settings
    steps = steps_of(settings)
    updates, images = sum(step.updates for step in steps), stage.batch.size
    found: dict[str, dict[str, Any] | None] = {}
    counted: dict[str, float] = {}
    traced: list[dict[str, Any]] = []
    encodes = stage.stage != "vae"
    for name in [*(step.name for step in steps), *(["encode"] if encodes else [])]:
        own = [
            one
            for one in reports
            if (one["config"], one["step"], one["images"]) == (recipe, name, images)
        ]
        # a traced program was not compiled, so its report says nothing of memory
        compiled = (one for one in own if one["topology"] == where and "fits" in one)
        found[name] = next(compiled, None)
        if not own:
            tell(f"counting the FLOPs of {recipe}, {name}")
            work = program(settings, topology.load(where).devices, name)
            model = float(flops.count_jaxpr(work.jitted.trace(*work.args).jaxpr).model)
            values = (recipe, name, where, images, model)
            own = [dict(zip(REPORT, values, strict=True))]
            traced += own
        counted[name] = float(own[0]["model_flops_per_step"])
    known = [one for one in found.values() if one]
    whole = len(known) == len(found)
    bounds = [one["mfu_bound"] for one in known if one.get("mfu_bound")]
    cost = Cost(
        recipe,
        updates,
        images,
        train=sum(step.updates * counted[step.name] for step in steps),
        encoders=updates * counted["encode"] if encodes else 0.0,
        text=float(updates * images * text_flops(stage)) if encodes else 0.0,
        fits=all(one.get("fits") for one in known) if whole else None,
        bound=min(bounds) if whole and bounds else None,
    )
    return cost, traced


def text_flops(settings: StageSettings) -> int:
    """Return the FLOPs of one caption in the frozen text encoder."""
    description = encoders_of(settings).t5
    model = build_model(T5Encoder, description.model)
    tokens = jax.ShapeDtypeStruct((1, description.length), jnp.int32)

    def encode(params: Any, ids: jax.Array) -> jax.Array:
        return model.apply({"params": params}, ids)

    return flops.count(encode, model_shapes(model), tokens).model


def chip_of(where: str) -> tuple[Chip, int]:
    """Return (the chip, how many) of a topology. Raises InputError as `topology.parse`."""
    kind, shape = topology.parse(where)
    count = 1
    for side in shape:
        count *= side
    return CHIPS[kind], count


def chip_hours(work: float, chip: Chip, mfu: float) -> float:
    """Return the hours that one chip takes for so many FLOPs."""
    return work / (chip.flops * mfu) / 3600


def text_bytes(settings: StageSettings) -> int:
    """Return the bytes of one caption's features in a feature cache, in bfloat16."""
    description = encoders_of(settings).t5
    return 2 * description.length * build_model(T5Encoder, description.model).channels


def to_json(costs: list[Cost]) -> list[dict[str, Any]]:
    """Return the costs as JSON has them."""
    return [{**dataclasses.asdict(one), "seen": one.seen} for one in costs]
