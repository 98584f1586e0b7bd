"""The pieces of a distillation: its teacher, the compiled programs, each round's state and data."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from cv3jax.cascade.parts import build_model, load_params
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription, Distilled, StageDescription
from cv3jax.distillation.programs import distillation_step, round_of
from cv3jax.distillation.settings import DistillSettings, RoundSettings
from cv3jax.distillation.teachers import check_student, check_teacher
from cv3jax.distributed.backend import jit_once, waiting
from cv3jax.distributed.batches import placement, placer
from cv3jax.distributed.partitioning import tree_sharding
from cv3jax.models.precision import as_computed
from cv3jax.models.vae import Autoencoder
from cv3jax.training.data import loader, open_data
from cv3jax.training.feature_cache import arrays, open_feature_cache, prepare_of
from cv3jax.training.frozen import (
    Frozen,
    check_sides,
    describe,
    frozen_description,
    frozen_parts,
)
from cv3jax.training.memory_plan import compiled_and_announced
from cv3jax.training.programs import (
    DiffusionPrograms,
    diffusion_programs,
    encode_args,
    train_args,
)
from cv3jax.training.settings import StageSettings
from cv3jax.training.stage import MeshPlan, mesh_plan
from cv3jax.training.train_step import create_state
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import RecordSource


class Trained(NamedTuple):
    """A stage on disk: a round's teacher, or the student that the first round begins with."""

    directory: Path  # of its cascade
    stage: StageDescription

    @property
    def w_dim(self) -> int:
        """The width of its guidance embedding; 0 where it is not guidance-conditioned."""
        return self.stage.w_dim


class Distillation(NamedTuple):
    """What all rounds share."""

    settings: DistillSettings
    mesh: MeshPlan
    records: RecordSource
    frozen: Frozen
    teacher: Trained  # of round 1
    words: list[str]  # messages about them for the user
    programs: Callable[[int], DiffusionPrograms]  # a teacher's w_dim → the programs
    # a teacher's w_dim → (encode, train), compiled once each
    compiled: Callable[[int], tuple[Callable, Callable]]
    cache: Any

    @property
    def stage(self) -> StageSettings:
        """The settings of the stage that is distilled."""
        return self.settings.stage


def build_distillation(settings: DistillSettings, workdir: Path) -> Distillation:
    """Return the pieces of a distillation.

    Raises InputError, as its parts do, before anything is trained.
    """
    stage = settings.stage
    mesh, records = mesh_plan(stage), open_data(stage.data)
    directory, description = frozen_description(stage)
    teacher = find(stage.stage, stage.init_from or stage.cascade, "distil")
    words = check_teacher(settings, teacher.stage, f"the {stage.stage} of {teacher.directory}")
    cache = open_feature_cache(stage, directory, description, records)

    @functools.cache
    def programs(w_dim: int) -> DiffusionPrograms:
        return diffusion_programs(
            stage,
            mesh,
            description.vae,
            description.t5,
            arrays(stage, cache),
            make_step=distillation_step(settings, w_dim),
        )

    programs(teacher.w_dim)
    check_sizes(settings, description, teacher, "the teacher")
    loader(stage, records, None, mesh.mesh)  # it should refuse now what it refuses
    frozen = frozen_parts(stage, directory, description, records, mesh.mesh, workdir, ("vae", "t5"))
    compiled = compiler(programs, frozen)
    return Distillation(settings, mesh, records, frozen, teacher, words, programs, compiled, cache)


def check_parts(stage: StageSettings) -> None:
    """Raise InputError unless a distillation's cascades have what it reads: a t5, and a teacher."""
    if frozen_description(stage)[1].t5 is None:
        raise InputError(
            f"config.cascade = {stage.cascade} has no t5, and a student reads the text features of"
            " its teacher; give a cascade with a t5"
        )
    find(stage.stage, stage.init_from or stage.cascade, "distil")


def compiler(
    programs: Callable[[int], DiffusionPrograms], frozen: Frozen
) -> Callable[[int], tuple[Callable, Callable]]:
    """Return a function: a teacher's w_dim → its (encode, train), compiled on the first call.

    All rounds encode alike, so `encode` is compiled once.
    """
    known: dict[int, tuple[Callable, Callable]] = {}

    def compiled(w_dim: int) -> tuple[Callable, Callable]:
        if w_dim not in known:
            one = programs(w_dim)
            pairs = [(one.train, train_args(one)), (one.encode, encode_args(one))]
            beside = {**frozen.params, "teacher": one.aside["teacher"]}
            train, *encode = compiled_and_announced(
                pairs[: 1 if known else 2], one.like, beside, (one.batch, train_args(one)[2])
            )
            known[w_dim] = (encode[0] if encode else next(iter(known.values()))[0], train)
        return known[w_dim]

    return compiled


def find(stage: str, where: str, what: str) -> Trained:
    """Return the recipe's stage of the cascade at `where`.

    Raises InputError where the cascade has no such stage; `what` says what it is needed for.
    """
    directory, description = cascades.read_cascade(where)
    if stage not in description.stages:
        raise InputError(
            f"{where} has no {stage} to {what}, only"
            f" {', '.join(sorted(description.stages)) or 'a vae'}; give a checkpoint with a {stage}"
        )
    return Trained(directory, description.stages[stage])


def find_student(run: Distillation) -> Trained | None:
    """Return the stage of config.distill.student, with which round 1 begins, or None.

    With None, round 1 begins with its teacher. Raises InputError where the stage does not fit.
    """
    settings, ours = run.settings, run.frozen.description
    if not settings.student:
        return None
    student = find(run.stage.stage, settings.student, "continue from")
    where = f"config.distill.student = {settings.student}"
    check_student(settings, student.stage, where)
    check_sizes(settings, ours, student, where)
    theirs = cascades.read_cascade(student.directory)[1]
    if theirs.vae.scale != ours.vae.scale:
        scales = f"{theirs.vae.scale:.6g}, but that of config.cascade is {ours.vae.scale:.6g}"
        raise InputError(
            f"{where} was trained on latents of another autoencoder: its latent scale is {scales};"
            " give the cascade that it was trained with as config.cascade"
        )
    return student


def check_sizes(
    settings: DistillSettings, description: CascadeDescription, trained: Trained, who: str
) -> None:
    """Raise InputError unless the student can be initialised with `trained`.

    Both must have the same sizes, except for w, and use this autoencoder and text encoder.
    """
    stage = settings.stage
    check_sides(stage, description.vae)
    if (side := stage.data.whole_side) != trained.stage.image_size:
        raise InputError(
            f"config.data gives pictures of {side} pixels per side, but {who} makes pictures of"
            f" {trained.stage.image_size}; give that size"
        )
    if description.t5.model["channels"] != trained.stage.text_width:
        raise InputError(
            f"config.cascade = {stage.cascade}: its text features have another width than those"
            f" that {who} was trained with; give the cascade with that text encoder"
        )
    ours = {
        "out_channels": build_model(Autoencoder, description.vae.model).z_channels,
        **stage.model,
    }
    theirs = {
        **{name: ours[name] for name in ours if name not in trained.stage.model},
        **trained.stage.model,
    }
    free = ("w_dim", "dtype", "remat")
    for name in sorted(theirs.keys() - set(free)):
        mine, other = ours.get(name), theirs[name]
        if (list(mine) if isinstance(mine, tuple) else mine) != other:
            raise InputError(
                f"config.model.{name} = {mine}, but {who} has {other}, and a student needs the"
                f" sizes of its teacher; give {other}"
            )


def student_stage(run: Distillation, round: RoundSettings) -> StageDescription:
    """Return the description of a round's student, for cascade.json."""
    low, high = round.w
    return dataclasses.replace(
        describe(run.stage, run.frozen.description),
        steps=round.steps,
        guidance=min(max(run.stage.sample.guidance, low), high),
        distilled=Distilled(round.steps, (low, high)),
    )


def load_stage(run: Distillation, trained: Trained) -> Any:
    """Return the parameters of a stage, sharded over the mesh, in float32."""
    directory, description = cascades.read_cascade(trained.directory)
    name = run.stage.stage
    with waiting(f"loading the {name} of {directory}"):
        return load_params(
            directory, description, (name,), lambda shapes: tree_sharding(shapes, run.mesh.mesh)
        )[0][name]


def as_frozen(run: Distillation, params: Any) -> Any:
    """Return a teacher's parameters in the types in which the step computes."""
    return as_computed(params, run.stage.model["dtype"])


def create_student(run: Distillation, round: RoundSettings, teacher: Trained, params: Any) -> Any:
    """Return the round's fresh train state.

    It starts with `params`, the teacher's or a student's. Where these are not guidance-conditioned,
    it adds a kernel of zeros for w.
    """
    one = run.programs(teacher.w_dim)
    shardings = placement(one.like)

    def create(key, theirs):
        fresh = {
            name: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), x)
            for name, x in one.like.params.items()
            if name not in theirs
        }
        start = {**jax.tree.map(jnp.copy, theirs), **fresh}
        return create_state(one.init, one.tx, key, start, one.like.norms is not None)

    with waiting("making the train state"):
        key = jax.random.key(run.stage.seed + round.number)
        return jax.block_until_ready(jit_once(create, shardings)(key, params))


def round_data(run: Distillation, round: RoundSettings) -> tuple[Any, Callable]:
    """Return (the loader's iterator of a round, the function that places its batches)."""
    stage = run.settings.of_round(round.number).stage
    one = run.programs(run.teacher.w_dim)
    tokenize = run.frozen.tokenize if "tokens" in one.batch else None
    prepare = None if run.cache is None else prepare_of(stage, run.cache)
    return loader(stage, run.records, tokenize, run.mesh.mesh, prepare), placer(
        run.mesh.mesh, stage.batch.size
    )


def round_aside(run: Distillation, round: RoundSettings, teacher: Trained, params: Any) -> dict:
    """Return what a round's programs take aside: {"teacher": parameters, "round"}.

    params: of the teacher, from `as_frozen`.
    """
    like = run.programs(teacher.w_dim).aside["round"]
    now = jax.device_put(round_of(run.settings, round), jax.tree.map(lambda x: x.sharding, like))
    return {"teacher": params, "round": now}


def round_step(
    run: Distillation, round: RoundSettings, teacher: Trained, params: Any
) -> Callable[[Any, Any], tuple[Any, dict]]:
    """Return the function (state, batch) → (state, metrics) of a round.

    params: of the teacher, from `as_frozen`.
    """
    one = run.programs(teacher.w_dim)
    encode, train = run.compiled(teacher.w_dim)
    parts = {name: run.frozen.params[name] for name in one.frozen}
    aside = round_aside(run, round, teacher, params)
    return lambda state, batch: train(state, aside, encode(parts, batch, state.key, state.step))
