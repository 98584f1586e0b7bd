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
from cv3jax.training.inputs import data_content, encoders_identity, stage_inputs
from cv3jax.training.resume import check_resume
from cv3jax.training.scoring import OpenScorers
from cv3jax.training.settings import StageSettings
from data_pipeline.records.digest import json_digest

FOLDER = "lora"
# another base is never taken silently; a feature cache is of the data and the encoders, which are
# compared themselves
RESUMABLE = (*FREE, "sample.", "data.cache")


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
    given = (build, inputs, lora_fields, RESUMABLE, FOLDER, origin)
    return training.Kind(*given, before=LoraStage.before)


def check_unchanged(
    settings: LoraSettings, workdir: Path, resume_from: int | None, allowed: tuple[str, ...]
) -> Any:
    """Return the content of the data that the run in `workdir` has, as `data_content` describes it.

    It is None where there is no run yet. A command that prepares data under `workdir` calls this
    first, so that those of another run stay. The data of `settings` may still be missing: without a
    path they will be the records under `workdir`, which are not compared here.

    Raises InputError as `run` does where the run there is another.
    """
    directory, recipe = workdir / "checkpoints", settings.stage.json
    inputs = _trained_inputs(settings, encoders_identity(settings.stage))
    if steps := runs.steps(directory):
        step = resume_from if resume_from in steps else steps[-1]
        runs.verify(directory, step)
        then = runs.run_of(directory, step)["config"].get("data", {})
        data = {**recipe["data"], "cache": then.get("cache")}
        if data["path"] is not None:
            inputs["data.path"] = data_content(settings.stage.data)
        elif Path(str(then.get("path"))).name == RECORDS:  # the workdir may have been moved
            data["path"] = then["path"]
        else:
            data["path"] = str(workdir / RECORDS)
        recipe = {**recipe, "data": data}
    resumed = check_resume(Asked(recipe, inputs, allowed, RESUMABLE), workdir, resume_from)
    if resumed.step is None:
        return None
    return runs.run_of(directory, resumed.step).get("inputs", {}).get("data.path")


def lora_inputs(settings: LoraSettings) -> dict[str, Any]:
    """Return `stage_inputs` with the stage that is adapted."""
    base_stage(settings)
    found = stage_inputs(settings.stage)
    found.pop("data.cache", None)
    return {**found, **_trained_inputs(settings, found["cascade"])}


def _trained_inputs(settings: LoraSettings, encoders: str) -> dict[str, Any]:
    """Return the identities of the encoders and of the stage that is adapted."""
    base = parts_fingerprint(settings.base, (settings.part,))
    if field_of(settings) == "init_from":
        return {"cascade": encoders, "init_from": base}
    return {"cascade": json_digest([encoders, base])}
