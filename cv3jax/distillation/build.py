"""The pieces of a distillation: its teacher, the two compiled kinds of rounds, each round's state
and data.
"""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from cv3jax.cascade.parts import build_model, load_params
from cv3jax.checkpoints import cascades
from cv3jax.distillation.programs import round_of
from cv3jax.distillation.rounds import Plan, check_student, check_teacher, plans
from cv3jax.distributed.backend import jit_once
from cv3jax.distributed.batches import placement, placer
from cv3jax.distributed.partitioning import tree_sharding
from cv3jax.models.precision import as_computed
from cv3jax.models.vae import Autoencoder
from cv3jax.training.data import loader, open_data
from cv3jax.training.feature_cache import arrays, open_companion, prepare_of
from cv3jax.training.frozen import (
    Frozen,
    check_sides,
    describe,
    frozen_description,
    frozen_parts,
    whole_side,
)
from cv3jax.training.memory_plan import compiled_and_announced
from cv3jax.training.programs import DiffusionSteps, diffusion_steps, encode_args, train_args
from cv3jax.training.stage import plan
from cv3jax.training.train_step import create_state
from cv3jax.training.validation import check
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import RecordSource


class Trained(NamedTuple):
    """A stage on disk: whose steps a round halves, or which begins the first."""

    directory: Path  # of its cascade
    stage: dict  # its entry in cascade.json

    @property
    def w_dim(self) -> int:
        """Of the guidance weights it is told; 0 where it is guided."""
        return self.stage["model"].get("w_dim", 0)


class Distillation(NamedTuple):
    """What all rounds share."""

    config: ConfigDict
    deal: Any
    records: RecordSource
    frozen: Frozen
    teacher: Trained  # of round 1
    rounds: tuple[Plan, ...]
    words: list[str]  # what is worth saying about them
    steps: Callable[[int], DiffusionSteps]  # a teacher's w_dim → the programs
    compiled: Callable[[int], tuple[Callable, Callable]]  # → (encode, train), compiled once a kind
    cache: Any


def build_distillation(config: ConfigDict, workdir: Path) -> Distillation:
    """The pieces. Raises InputError as its parts do, before anything is trained."""
    check(config)
    if config.stage not in ("base", "relay"):
        raise InputError(f"config.stage = {config.stage!r}: one of base, relay")
    if "distill" not in config:
        raise InputError(
            "the config has no distill; take a distillation recipe, such as distill_base"
        )
    if config.objective.text_drop:
        raise InputError(
            f"config.objective.text_drop = {config.objective.text_drop}: a student is taught with"
            " its text, give 0"
        )
    deal, records, rounds = plan(config), open_data(config), plans(config)
    directory, description = frozen_description(config)
    if "t5" not in description:
        raise InputError(
            f"config.cascade = {config.cascade} has no t5: a student reads its teacher's text"
            " features"
        )
    teacher = find(config, config.init_from or config.cascade, "distil")
    words = check_teacher(config, teacher.stage, f"the {config.stage} of {teacher.directory}")
    text = description["t5"]
    cache = open_companion(config, directory, description, records)
    held = arrays(config, cache)

    @functools.cache
    def steps(w_dim: int) -> DiffusionSteps:
        return diffusion_steps(
            config,
            deal,
            description["vae"],
            text["model"],
            text["length"],
            held,
            teacher_w_dim=w_dim,
        )

    steps(teacher.w_dim)
    check_sizes(config, description, teacher, "the teacher")
    loader(config, records, None, deal.mesh)  # what it refuses it should refuse now
    frozen = frozen_parts(
        config, directory, description, records, deal.mesh, workdir, ("vae", "t5")
    )

    known: dict[int, tuple[Callable, Callable]] = {}

    def compiled(w_dim: int) -> tuple[Callable, Callable]:
        if w_dim not in known:
            one = steps(w_dim)
            # all rounds encode alike
            programs = [(one.train, train_args(one)), (one.encode, encode_args(one))][
                : 1 if known else 2
            ]
            beside = (frozen.params, one.aside["teacher"])
            train, *encode = compiled_and_announced(
                programs, one.like, beside, (one.batch, train_args(one)[2])
            )
            known[w_dim] = (encode[0] if encode else next(iter(known.values()))[0], train)
        return known[w_dim]

    return Distillation(
        config, deal, records, frozen, teacher, rounds, words, steps, compiled, cache
    )


def find(config: ConfigDict, where: str, what: str) -> Trained:
    """The recipe's stage of the cascade at `where`.

    Raises InputError where it has none to do `what` with.
    """
    directory, description = cascades.read_cascade(where)
    if config.stage not in description["stages"]:
        raise InputError(
            f"{where} has no {config.stage} to {what}, only"
            f" {', '.join(sorted(description['stages'])) or 'a vae'}"
        )
    return Trained(directory, description["stages"][config.stage])


def find_student(run: Distillation) -> Trained | None:
    """The stage of config.distill.student, which begins round 1; None: the teacher does.

    Raises InputError where it is not one of these.
    """
    config, ours = run.config, run.frozen.description
    if not config.distill.student:
        return None
    student = find(config, config.distill.student, "go on with")
    where = f"config.distill.student = {config.distill.student}"
    check_student(config, student.stage, where)
    check_sizes(config, ours, student, where)
    theirs = cascades.read_cascade(student.directory)[1]
    if theirs["vae"]["scale"] != ours["vae"]["scale"]:
        scales = f"{theirs['vae']['scale']:.6g}, that of config.cascade {ours['vae']['scale']:.6g}"
        raise InputError(f"{where} has latents of another autoencoder: its scale is {scales}")
    return student


def check_sizes(config: ConfigDict, description: dict, trained: Trained, who: str) -> None:
    """Raise InputError unless the student is as large as `trained`, but for w, and both are of this
    autoencoder and text encoder.
    """
    check_sides(config, description["vae"]["model"])
    if (side := whole_side(config)) != trained.stage["image_size"]:
        raise InputError(
            f"config.data gives pictures of {side} pixels a side, {who} makes"
            f" {trained.stage['image_size']}"
        )
    if description["t5"]["model"]["channels"] != trained.stage["text_width"]:
        raise InputError(
            f"config.cascade = {config.cascade}: its text features are not as wide as {who} reads"
            " them"
        )
    ours = {
        "out_channels": build_model(Autoencoder, description["vae"]["model"]).z_channels,
        **config.model,
    }
    theirs = {
        **{name: ours[name] for name in ours if name not in trained.stage["model"]},
        **trained.stage["model"],
    }
    free = ("w_dim", "dtype", "remat")
    for name in sorted(theirs.keys() - set(free)):
        mine, other = ours.get(name), theirs[name]
        if (list(mine) if isinstance(mine, tuple) else mine) != other:
            raise InputError(
                f"config.model.{name} = {mine}, but {who} has {other}: a student is as large; give"
                " its value"
            )


def student_stage(run: Distillation, plan: Plan) -> dict:
    """What a round's weights are in cascade.json."""
    steps, (low, high) = plan.steps, plan.w
    told = {
        "guidance": min(max(run.config.sample.guidance, low), high),
        "distilled": {"steps": steps, "w": [low, high]},
    }
    return {**describe(run.config, run.frozen.description), "steps": steps, **told}


def load_stage(run: Distillation, trained: Trained) -> Any:
    """Its parameters on the mesh, float32."""
    directory, description = cascades.read_cascade(trained.directory)
    name = run.config.stage
    return load_params(
        directory, description, (name,), lambda shapes: tree_sharding(shapes, run.deal.mesh)
    )[0][name]


def as_frozen(run: Distillation, params: Any) -> Any:
    """A teacher's parameters as the step computes with them."""
    return as_computed(params, run.config.model.dtype)


def round_config(run: Distillation, plan: Plan) -> ConfigDict:
    """The recipe of one round: its own entry, updates and rate, and another order of the data than
    the rounds before.
    """
    config = ConfigDict(run.config.to_dict()).copy_and_resolve_references()
    config.distill.rounds = (run.config.distill.rounds[plan.number - 1],)
    config.train.steps, config.seed = plan.updates, run.config.seed + plan.number
    return config


def create_student(run: Distillation, plan: Plan, teacher: Trained, params: Any) -> Any:
    """The round's fresh train state: `params`, the teacher's or a student's, and where those are
    not told w, a kernel of zeros for it.
    """
    one = run.steps(teacher.w_dim)
    shardings = placement(one.like)

    def create(key, theirs):
        fresh = {
            name: jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), x)
            for name, x in one.like.params.items()
            if name not in theirs
        }
        return create_state(one.init, one.tx, key, {**jax.tree.map(jnp.copy, theirs), **fresh})

    return jit_once(create, shardings)(jax.random.key(run.config.seed + plan.number), params)


def round_data(run: Distillation, plan: Plan) -> tuple[Any, Callable]:
    """(the loader's iterator of a round, what places its batches)."""
    config, one = round_config(run, plan), run.steps(run.teacher.w_dim)
    tokenize = run.frozen.tokenize if "tokens" in one.batch else None
    prepare = None if run.cache is None else prepare_of(config, run.cache)
    return loader(config, run.records, tokenize, run.deal.mesh, prepare), placer(
        run.deal.mesh, config.batch.size
    )


def round_step(
    run: Distillation, plan: Plan, teacher: Trained, params: Any
) -> Callable[[Any, Any], tuple[Any, dict]]:
    """(state, batch) → (state, metrics) with that teacher, its parameters as `as_frozen`."""
    one = run.steps(teacher.w_dim)
    encode, train = run.compiled(teacher.w_dim)
    parts = {name: run.frozen.params[name] for name in one.frozen}
    now = jax.device_put(
        round_of(run.config, plan), jax.tree.map(lambda x: x.sharding, one.aside["round"])
    )
    aside = {"teacher": params, "round": now}
    return lambda state, batch: train(state, aside, encode(parts, batch, state.key, state.step))
