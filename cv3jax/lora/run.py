"""`cv3jax finetune`: train adapters of a stage under a workdir, by training's own loop.

WORKDIR/lora/adapter.safetensors is what it makes. A run in an existing workdir resumes.
"""

from pathlib import Path
from typing import Any

from cv3jax.checkpoints import runs
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.lora.base import base_stage, field_of
from cv3jax.lora.parsing import lora_fields
from cv3jax.lora.pictures import RECORDS
from cv3jax.lora.settings import LoraSettings
from cv3jax.lora.stage import LoraStage
from cv3jax.recipes import Source
from cv3jax.training import run as training
from cv3jax.training.changes import FREE, Asked
from cv3jax.training.inputs import encoders_identity, stage_inputs
from cv3jax.training.resume import check_resume
from cv3jax.training.scoring import OpenScorers
from cv3jax.training.settings import StageSettings
from data_pipeline.records.digest import json_digest

FOLDER = "lora"
RESUMABLE = (*FREE, "sample.")  # another base is never taken silently


def run(
    settings: LoraSettings,
    workdir: Path,
    resume_from: int | None = None,
    allowed: tuple[str, ...] = (),
    source: Source | None = None,
    scorers: OpenScorers | None = None,
) -> dict:
    """Train the adapters of `settings` under `workdir`. Returns figures, as `training.run` does.

    Raises what that raises, and InputError where the recipe does not fit the base.
    """
    given = (workdir, resume_from, allowed, source, scorers)
    return training.run(settings.stage, *given, kind=kind_of(settings))


def kind_of(settings: LoraSettings) -> training.Kind:
    """Return the kind of run that trains adapters."""

    def build(stage: StageSettings, workdir: Path) -> LoraStage:
        return LoraStage(settings, workdir)

    def inputs(stage: StageSettings) -> dict[str, Any]:
        return lora_inputs(settings)

    origin = f"adapters of rank {settings.rank} for the {settings.part} of {settings.base}"
    return training.Kind(build, inputs, lora_fields, RESUMABLE, FOLDER, origin, adapts=True)


def check_unchanged(
    settings: LoraSettings, workdir: Path, resume_from: int | None, allowed: tuple[str, ...]
) -> bool:
    """Return whether `workdir` has checkpoints of this run, whose data may still be missing.

    A command that prepares data under `workdir` calls it first, so that those of another run stay.

    Raises InputError as `run` does where the run there is another; the data are not compared.
    """
    steps = runs.steps(workdir / "checkpoints")
    recipe = settings.stage.json
    if steps:
        then = runs.run_of(workdir / "checkpoints", steps[-1])["config"]["data"]
        data = {**recipe["data"], "cache": then["cache"]}
        if data["path"] is None:  # that of records under the workdir, which may have been moved
            own = Path(str(then["path"])).name == RECORDS
            data["path"] = then["path"] if own else str(workdir / RECORDS)
        recipe = {**recipe, "data": data}
    inputs = _trained_inputs(settings, encoders_identity(settings.stage))
    check_resume(Asked(recipe, inputs, allowed, RESUMABLE), workdir, resume_from)
    return bool(steps)


def lora_inputs(settings: LoraSettings) -> dict[str, Any]:
    """Return `stage_inputs` with the stage that is adapted."""
    base_stage(settings)
    found = stage_inputs(settings.stage)
    return {**found, **_trained_inputs(settings, found["cascade"])}


def _trained_inputs(settings: LoraSettings, encoders: str) -> dict[str, Any]:
    """Return the identities of the encoders and of the stage that is adapted."""
    base = parts_fingerprint(settings.base, (settings.part,))
    if field_of(settings) == "init_from":
        return {"cascade": encoders, "init_from": base}
    return {"cascade": json_digest([encoders, base])}
