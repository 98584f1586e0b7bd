"""Make a tiny dataset and a tiny cascade trained on it, once per session.

They are shared by all tests (shared.py). They are cached functions instead of fixtures, so that
helpers, fixtures and tests of any scope use the same ones. The recipes are the shipped `:tiny`
ones, on a mesh of eight devices that really splits their small parameters.
"""

import contextlib
import functools
import json
from pathlib import Path
from typing import NamedTuple

import jax
import pytest
from shared import once, root

from cv3jax import recipes
from cv3jax.distillation import build as building
from cv3jax.distillation import run as distilling
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.distillation.settings import DistillSettings
from cv3jax.distributed import partitioning
from cv3jax.distributed.mesh import make_mesh
from cv3jax.training import run as training
from cv3jax.training import stage
from cv3jax.training.build import build
from cv3jax.training.metrics import read_lines
from cv3jax.training.parsing import parse_stage
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import Stage
from data_pipeline.scenes import dataset

STEPS = 6
# of the UNets: what the recipes' `:tiny` has at two sides, at one; compiling is what takes the time
SIZES = {"channels": 16, "channel_mult": (1,), "res_blocks": 1, "depth": (0,), "mid_depth": 1}
SMALLEST = tuple(f"model.{name}={value}".replace(" ", "") for name, value in SIZES.items())
BEFORE = {"vae": None, "base": "vae", "relay": "base"}
MESH = {  # eight devices, another mesh plan for each stage
    "vae": ("mesh.data=1", "mesh.fsdp=8"),
    "base": ("mesh.data=2", "mesh.fsdp=4"),
    "relay": ("mesh.data=8", "mesh.fsdp=1"),
}
ALONE = ("mesh.fsdp=1", "batch.per_device=2")  # one device, four microbatches
PREVIEWED = ("vae", "relay")
SCHEDULE = ("train.log_every=1", "train.save_every=3", "train.keep=2", "optim.decay=constant")
# muon takes three times as long to compile
OPTIMIZER = {"vae": "muon", "base": "adamw", "relay": "adamw"}
W = (1.0, 4.0)
UPDATES = 3  # of a round
# the first is taught by the guided stage, the second and third are of one kind
ROUNDS = {"base": (4, 2, 1), "relay": (1,)}
FULL = {"base": 4, "relay": 2}  # steps of the sampler that students are measured against


class Run(NamedTuple):
    """Hold the outputs of a trained stage.

    `compiled` has the names of all programs that XLA had compiled by the end of each step.
    """

    workdir: Path
    figures: dict
    compiled: list[list[str]]

    @property
    def losses(self) -> list[float]:
        return [line["loss"] for line in read_lines(self.workdir / "metrics.jsonl")]


@functools.cache
def scenes() -> Path:
    """Return the place of 64 rendered scenes of 64 pixels."""
    with once("scenes") as missing:
        if missing:
            settings = dataset.SceneSettings(64, 0, "train", size=64)
            dataset.build(root() / "scenes", settings)
    return root() / "scenes"


def argv(stage: str, workdir: Path, *fields: str) -> list[str]:
    """Return the train command's arguments.

    The recipe is the tiny one on the cascade trained so far, with `fields` such as "train.steps=3".
    """
    given = [
        f"data.path={scenes()}",
        *SCHEDULE,
        f"optim.kind={OPTIMIZER[stage]}",
        f"train.steps={STEPS}",
    ]
    given.append(f"train.preview_every={STEPS if stage in PREVIEWED else 0}")
    given += SMALLEST if stage != "vae" else ()
    if BEFORE[stage]:
        given.append(f"cascade={trained(BEFORE[stage]).workdir}")
    if stage == "relay":
        given.append(f"init_from={trained('base').workdir}")
    return arguments(f"scenes_{stage}:tiny", workdir, *given, *fields)


def arguments(recipe: str, workdir: Path, *fields: str) -> list[str]:
    """Return a command's arguments.

    If a field is given twice, the last one counts: of tuples the command would join the values.
    """
    last = dict(field.split("=", 1) for field in fields)
    return [
        f"--config={recipe}",
        "--workdir",
        str(workdir),
        *(f"--config.{name}={value}" for name, value in last.items()),
    ]


def config(stage: str, *fields: str) -> StageSettings:
    """Return the settings of these arguments."""
    name, _, _, *overrides = argv(stage, Path(), *fields)
    return parse_stage(recipes.load(name.removeprefix("--config="), overrides))


def distill_argv(stage: str, workdir: Path, *fields: str) -> list[str]:
    """Return the distill command's arguments.

    The cascade is the tiny relay's. Its base is distilled first, then its relay.
    """
    before = distilled("base") if stage == "relay" else trained("relay")
    given = [
        f"data.path={scenes()}",
        *SCHEDULE,
        "train.save_every=0",
        "optim.kind=adamw",
        *SMALLEST,
        f"cascade={before.workdir}",
    ]
    given += [
        f"distill.rounds={rounds(dict.fromkeys(ROUNDS[stage], UPDATES))}",
        f"sample.steps={FULL[stage]}",
        *MESH["base"],
    ]
    return arguments(f"scenes_distill_{stage}:tiny", workdir, *given, *fields)


def rounds(updates: dict[int, int]) -> str:
    """Return the value of distill.rounds from student steps → updates."""
    return str(tuple((steps, count, 1e-3, *W) for steps, count in updates.items())).replace(" ", "")


def distill_config(stage: str, *fields: str) -> DistillSettings:
    """Return the settings of these arguments."""
    name, _, _, *overrides = distill_argv(stage, Path(), *fields)
    return parse_distillation(recipes.load(name.removeprefix("--config="), overrides))


@functools.cache
def distilled(stage: str) -> Run:
    """Return the stage of the tiny relay's cascade after its rounds on eight devices.

    `compiled` covers every step of all rounds.
    """
    name = f"distilled_{stage}"
    workdir, facts = root() / name, root() / f"{name}.json"
    with once(name) as missing:
        if missing:
            chosen = distill_config(stage)
            with compilations() as compiled, split_small(), pytest.MonkeyPatch.context() as patch:
                seen = []
                watch_rounds(patch, lambda plan, step: seen.append(list(compiled)))
                figures = distilling.run(chosen, workdir)
            assert len(seen) == UPDATES * len(ROUNDS[stage])
            facts.write_text(json.dumps([figures, seen]))
    return Run(workdir, *read_json(facts))


def watch_rounds(patch: pytest.MonkeyPatch, after) -> None:
    """Call `after(plan, step)` after each step of a distillation's rounds."""
    of = building.round_step

    def watched(work, plan, teacher, params):
        run, count = of(work, plan, teacher, params), 0

        def step(state, batch):
            nonlocal count
            out = run(state, batch)
            count += 1
            after(plan, count)
            return out

        return step

    patch.setattr(building, "round_step", watched)


@functools.cache
def trained(stage: str) -> Run:
    """Return the stage after STEPS steps on eight devices."""
    workdir, facts = root() / stage, root() / f"{stage}.json"
    with once(stage) as missing:
        if missing:
            chosen = config(stage, *MESH[stage])  # which may train the stages before it
            with compilations() as compiled, split_small(), pytest.MonkeyPatch.context() as patch:
                seen = []
                watch(patch, lambda step: seen.append(list(compiled)))
                figures = training.run(chosen, workdir)
            assert len(seen) == STEPS
            facts.write_text(json.dumps([figures, seen]))
    return Run(workdir, *read_json(facts))


def watch(patch: pytest.MonkeyPatch, after, change=lambda step, state: state) -> None:
    """Call `after(step)` after each train step.

    `change(step, state)` replaces the state that the step returns.
    """

    def build_watched(*args) -> Stage:
        made = build(*args)
        count, of = 0, made.step

        def step(state, batch):
            nonlocal count
            state, metrics = of(state, batch)
            count += 1
            after(count)
            return change(count, state), metrics

        made.step = step
        return made

    patch.setattr(training, "build", build_watched)


@contextlib.contextmanager
def compilations():
    """Yield a list to which every XLA compilation inside the block adds its name.

    A program that is read from the cache counts too.
    """
    names = []

    def listen(event: str, duration: float, fun_name: str = "", **_):
        if event == "/jax/core/compile/backend_compile_duration":
            names.append(fun_name)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield names
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


@contextlib.contextmanager
def split_small():
    """Make "fsdp" split parameters of 256 elements and more.

    At the real threshold all of a tiny model would be replicated.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partitioning, "MIN_SIZE", 256)
        yield


@contextlib.contextmanager
def devices(count: int):
    """Make the stages built inside the block see only the first `count` devices."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            stage,
            "make_mesh",
            lambda **axes: make_mesh(**{**axes, "devices": jax.devices()[:count]}),
        )
        yield


def read_json(path: Path) -> dict:
    return json.loads(path.read_text())
