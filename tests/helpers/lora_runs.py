"""Train adapters of the tiny base, by the shipped recipe's `:tiny` variant."""

from pathlib import Path

import tiny_runs

from cv3jax import recipes
from cv3jax.lora.parsing import parse_lora
from cv3jax.lora.run import run
from cv3jax.lora.settings import LoraSettings
from cv3jax.lora.stage import LoraStage

STEPS = 4
EIGHT = ("mesh.data=2", "mesh.fsdp=4", "batch.per_device=1")
FIELDS = (
    *tiny_runs.SMALLEST,
    "lora.rank=2",
    "lora.alpha=1.0",
    "lora.dropout=0.25",
    "lora.targets=attention,convolutions",
    f"train.steps={STEPS}",
    "train.log_every=1",
    "train.save_every=2",
    "optim.lr=0.01",
)


def argv(workdir: Path, *fields: str, name: str = "lora_base:tiny") -> list[str]:
    """Return the arguments of `cv3jax train` for adapters of the tiny base."""
    base = tiny_runs.trained("base").workdir
    given = (f"data.path={tiny_runs.scenes()}", f"cascade={base}", *FIELDS)
    own = ("objective.prediction=v", "data.image_size=32")
    return tiny_runs.arguments(name, workdir, *own, *given, *fields)


def settings(*fields: str) -> LoraSettings:
    """Return the settings of these arguments."""
    name, _, _, *overrides = argv(Path(), *fields)
    return parse_lora(recipes.load(name.removeprefix("--config="), overrides))


def alone(workdir: Path, *fields: str) -> LoraStage:
    """Return the stage of these fields on one device."""
    chosen = settings(*tiny_runs.ALONE, *fields)  # which may train the base, on eight
    with tiny_runs.devices(1):
        return LoraStage(chosen, workdir)


def run_alone(workdir: Path, *fields: str) -> dict:
    """Run these fields on one device. Returns the figures."""
    chosen = settings(*tiny_runs.ALONE, *fields)
    with tiny_runs.devices(1):
        return run(chosen, workdir)
