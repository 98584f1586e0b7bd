"""`cv3jax finetune`: train adapters of a stage under a workdir, by training's own loop.

WORKDIR/lora/adapter.safetensors is what it makes. A run in an existing workdir resumes.
"""

from pathlib import Path
from typing import Any

from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.lora.base import base_stage, field_of
from cv3jax.lora.parsing import lora_fields
from cv3jax.lora.settings import LoraSettings
from cv3jax.lora.stage import LoraStage
from cv3jax.recipes import Source
from cv3jax.training import run as training
from cv3jax.training.changes import FREE
from cv3jax.training.inputs import stage_inputs
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
    return training.Kind(build, inputs, lora_fields, RESUMABLE, FOLDER, origin)


def lora_inputs(settings: LoraSettings) -> dict[str, Any]:
    """Return `stage_inputs` with the stage that is adapted."""
    base_stage(settings)
    found = stage_inputs(settings.stage)
    base = parts_fingerprint(settings.base, (settings.part,))
    if field_of(settings) == "init_from":
        return {**found, "init_from": base}
    return {**found, "cascade": json_digest([found["cascade"], base])}
