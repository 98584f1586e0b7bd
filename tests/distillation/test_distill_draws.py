"""Test the random draws of a distillation's rounds and the effect of its recipe's fields.

The real programs run with hollow networks (hollow_networks.py), which record their inputs.
"""

from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import described
import hollow_networks as hn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_draws import evenly, new_each_time, normal, share, unlike

from cv3jax.diffusion.schedule import blur_table, released_points
from cv3jax.distillation import build as building
from cv3jax.distillation.build import Trained
from cv3jax.distillation.loss import two_steps
from cv3jax.distillation.programs import distillation_step, round_of
from cv3jax.models import layers
from cv3jax.training.programs import DiffusionPrograms
from cv3jax.training.state import state_creator

UPDATES, W_DIM, LOW, TEACHER, SEED = 6, 16, 2.0, 2.0, 3
ROUNDS = ((2, 10, 0.01, 1.0, 4.0), (1, 20, 0.02, 2.0, 3.0))
# no value is the default of what takes it
RECIPE = (
    f"distill.rounds={ROUNDS}".replace(" ", ""),
    "distill.w=(2.5,)",
    "distill.target=x0_root_snr",
    "distill.ema=0.105",
    "sample.form=paper",
    "schedule.blur=exp",  # with sigma both forms draw the same
    "schedule.start=40",
    "optim.warmup=2",
    "optim.decay=linear",
    "optim.final=0.5",
    f"model.w_dim={W_DIM}",
    f"seed={SEED}",
    "attention=xla",
    "model.remat=full",
)
SETTINGS = hn.settings("scenes_distill_relay", *RECIPE)
# the student's steps of a round → the teacher's points, two steps each
POINTS = {steps: np.array(released_points(2 * steps, 40)) for steps in (2, 1)}
BLUR = blur_table("exp", 40).astype(np.float64)


class Seen(NamedTuple):
    """Hold the updates of a round and the inputs of its student and teacher."""

    steps: DiffusionPrograms
    teacher_w_dim: int
    states: list
    metrics: list
    t: np.ndarray  # of the student [updates, B]
    x: np.ndarray  # noisy latents, of x0 = 0 and low = LOW
    w: np.ndarray
    asked: list  # of the teacher, an update each


def w_of(embedding: np.ndarray) -> np.ndarray:
    """Return the guidance weights of their embeddings, from the slowest of the sines."""
    return 10 * np.arcsin(embedding[:, W_DIM // 2 - 1].astype(np.float64))


@pytest.fixture(scope="module", params=[0, W_DIM], ids=["first round", "later round"])
def seen(request) -> Seen:
    teacher_w_dim, round = request.param, SETTINGS.rounds[bool(request.param)]
    stage = SETTINGS.stage
    steps = hn.programs(stage, distillation_step(SETTINGS, teacher_w_dim))
    state = state_creator(steps.init, steps.tx, stage.seed, steps.like, None)()
    teacher = {"says": jnp.float32(TEACHER)} | ({"w_proj": jnp.zeros(())} if teacher_w_dim else {})
    frozen = {"teacher": teacher, "round": round_of(SETTINGS, round)}
    states, metrics, students, asked = [jax.tree.map(jnp.copy, state)], [], [], []
    for _ in range(UPDATES):
        state, found = steps.train(state, frozen, hn.encoded(LOW))
        ours, theirs = hn.seen_apart(lambda values: values["says"] != TEACHER)
        ours = hn.by_row(ours)
        asked.append(theirs)
        students.append((*hn.unscaled(ours), w_of(ours["cond"]["w"])))
        states.append(jax.tree.map(jnp.copy, state))
        metrics.append(jax.tree.map(float, found))
    t, x, w = (np.stack(values) for values in zip(*students, strict=True))
    return Seen(steps, teacher_w_dim, states, metrics, t, x, w, asked)


def round_seen(seen: Seen):
    return SETTINGS.rounds[bool(seen.teacher_w_dim)]


def test_pairs_w_and_noise_are_drawn_as_the_round_says_and_anew_each_time(seen):
    round = round_seen(seen)
    starts = POINTS[round.steps][:-1:2]
    assert set(seen.t.ravel()) == set(starts)
    for point in starts:
        share(seen.t == point, 1 / len(starts)) if len(starts) > 1 else None
    evenly(seen.w, np.linspace(*round.w, 11))
    drift = (BLUR[seen.t] * LOW)[..., None, None, None]
    sigma = np.stack([hn.sigma_at(t) for t in seen.t])
    noise = (seen.x - drift) / sigma
    normal(noise)
    drawn = [seen.w, noise] + ([seen.t] if len(starts) > 1 else [])
    for values in drawn:
        new_each_time(values)
    unlike(seen.w, noise[..., 0, 0, 0])
    if len(starts) > 1:
        unlike(seen.t, seen.w)
        unlike(seen.t, noise[..., 0, 0, 0])


def test_the_teacher_is_guided_in_the_first_round_and_guidance_conditioned_later(seen):
    rows = 2 * UPDATES * hn.BATCH * (1 if seen.teacher_w_dim else 2)
    assert sum(len(asked["x"]) for asked in seen.asked) == rows
    for asked, t, w in zip(seen.asked, seen.t, seen.w, strict=True):
        with_text = hn.by_row(asked)  # twice each row, at the two points of its pair
        points = (with_text["index"] + 1).reshape(-1, 2).max(1)
        np.testing.assert_array_equal(points, t)
        if seen.teacher_w_dim:
            given = w_of(with_text["cond"]["w"]).reshape(-1, 2)
            np.testing.assert_array_equal(given[:, 0], given[:, 1])
            np.testing.assert_allclose(given[:, 0], w, rtol=1e-6)
        else:
            assert "w" not in asked["cond"]


def test_the_loss_is_of_the_recipe_s_form_and_target(seen):
    """Both networks predict a constant.

    The end of the teacher's two steps is computed with the form that the recipe names.
    """
    round = round_seen(seen)
    points = POINTS[round.steps]
    table = hn.sigma_at(np.arange(1001)).ravel()

    def predict(says):
        # of v, which the recipe's network predicts
        def of(x, t):
            sigma = hn.sigma_at(np.asarray(t))
            return x / (1 + sigma**2) - sigma / np.sqrt(1 + sigma**2) * says

        return of

    for state, t, x, found in zip(seen.states, seen.t, seen.x, seen.metrics, strict=False):
        place = np.searchsorted(-points, -t)
        trio = points[place[:, None] + np.arange(3)]
        low, m = (
            np.full(x.shape, LOW),
            np.broadcast_to((BLUR[t] * LOW)[:, None, None, None], x.shape),
        )
        with jax.enable_x64(True):
            wanted = np.asarray(
                two_steps(predict(TEACHER), "paper", x, m, low, trio, table[trio], BLUR[trio])
            )
        says = float(state.params["says"]) + float(state.params["w_proj"])
        squared = (predict(says)(x, t) - wanted) ** 2
        np.testing.assert_allclose(found["x0_error"], squared.mean(), rtol=1e-4)
        np.testing.assert_allclose(found["loss"], (squared / hn.sigma_at(t)).mean(), rtol=1e-4)


def test_updates_have_the_round_s_rate_and_average(seen):
    """Adam without memory moves by the rate, which warms up and then falls linearly to half."""
    round = round_seen(seen)
    n = np.arange(UPDATES)
    left = 0.5 + 0.5 * (1 - (n - 2) / (round.updates - 2))
    rate = round.lr * np.where(n < 2, n / 2, left)
    says, ema = (
        np.array([getattr(state, of)["says"] for state in seen.states], np.float64)
        for of in ("params", "ema")
    )
    np.testing.assert_allclose(np.abs(np.diff(says)), rate, rtol=1e-3, atol=1e-7)
    longest = 1 - 1 / (0.105 * round.updates)
    decay = np.minimum(longest, (1 + n) / (10 + n))
    assert decay[-1] == longest or round.number == 2
    np.testing.assert_allclose(ema[1:], decay * ema[:-1] + (1 - decay) * says[1:], rtol=1e-6)


def test_networks_are_as_the_recipe_says_and_see_a_microbatch_at_a_time(seen):
    hn.traced.clear()
    one = hn.programs(SETTINGS.stage, distillation_step(SETTINGS, seen.teacher_w_dim))
    jax.eval_shape(one.train, one.like, one.aside, hn.encoded(LOW))
    ours, theirs = [], []
    for _, network, x in hn.traced:
        assert network.attend is layers.attend
        guided = x.shape[0] == 2 * hn.PART
        assert guided or x.shape[0] == hn.PART
        (theirs if network.remat == "none" else ours).append((network.w_dim, guided))
    assert set(ours) == {(W_DIM, False)}
    assert set(theirs) == {(seen.teacher_w_dim, not seen.teacher_w_dim)}


def run_of(settings=SETTINGS, **fields) -> SimpleNamespace:
    """Return as much of a distillation as its rounds need."""
    teacher = Trained(Path("teacher"), described.stage("relay"))
    mesh = hn.plan_of(settings.stage)
    return SimpleNamespace(
        settings=settings, stage=settings.stage, mesh=mesh, teacher=teacher, cache=None, **fields
    )


def test_every_round_has_the_data_in_an_order_of_its_own():
    small = hn.settings("scenes_distill_relay", *RECIPE, "batch.size=64", "batch.per_device=64")
    programs = SimpleNamespace(batch={"tokens": None})
    run = run_of(
        small,
        records=hn.records(64),
        programs=lambda w_dim: programs,
        frozen=SimpleNamespace(tokenize=hn.tokens),
    )
    orders = []
    for round in (*small.rounds, small.rounds[0]):
        loader, _ = building.round_data(run, round)
        orders.append(next(loader)["tokens"][:, 0].tolist())
        loader.close()
    first, second, again = orders
    assert first == again
    assert sorted(first) == sorted(second) == list(range(1, 65))
    assert np.mean(np.array(first) == np.array(second)) < 0.2
    seeds = [small.of_round(number).stage.seed for number in (1, 2)]
    assert len({SEED, *seeds}) == 3
    assert [small.of_round(number).stage.train.steps for number in (1, 2)] == [10, 20]


def test_every_round_s_student_draws_by_a_key_of_its_own(seen):
    run, params = run_of(programs=lambda w_dim: seen.steps), {"says": jnp.float32(TEACHER)}
    keys = []
    for settings in (SETTINGS, hn.settings("scenes_distill_relay", *RECIPE, "seed=77")):
        run.stage = settings.stage
        for round in settings.rounds:
            state = building.create_student(run, round, run.teacher, params)
            assert (float(state.params["says"]), float(state.params["w_proj"])) == (TEACHER, 0.0)
            keys.append(tuple(np.asarray(jax.random.key_data(state.key))))
    assert len(set(keys)) == 4


def test_a_round_s_step_encodes_with_its_state_s_key_and_step(seen):
    asked = []

    def encode(parts, batch, key, step):
        asked.append((parts, batch, key, step))
        return "encoded"

    def train(state, aside, encoded):
        asked.append((state, aside, encoded))

    one = seen.steps
    run = run_of(
        programs=lambda w_dim: one,
        compiled=lambda w_dim: (encode, train),
        frozen=SimpleNamespace(params={**hn.frozen(), "other": None}),
    )
    step = building.round_step(run, SETTINGS.rounds[1], run.teacher, "teacher's")
    state = SimpleNamespace(key="its key", step="its step")
    step(state, "batch")
    (parts, *given), (of, aside, encoded) = asked
    assert given == ["batch", "its key", "its step"]
    assert parts.keys() == {"vae", "t5"}
    assert (of, encoded, aside["teacher"]) == (state, "encoded", "teacher's")
    expected = round_of(SETTINGS, SETTINGS.rounds[1])
    jax.tree.map(np.testing.assert_array_equal, aside["round"], expected)
