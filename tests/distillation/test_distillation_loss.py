"""The loss of a distillation step, in float64 unless it is about what is drawn: by hand, who is
shown what, and the step's pace.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from distillation_cases import SHAPE, STAGES, B, double, land, network, normal

from cv3jax.diffusion import sampler
from cv3jax.diffusion.denoiser import guided
from cv3jax.diffusion.schedule import base_grid, mean, relay_grid
from cv3jax.distillation.loss import (
    TARGETS,
    Round,
    distillation_loss,
    draw_pairs,
    pair_weights,
    pairs,
    told,
)
from cv3jax.models.embeddings import guidance_embedding
from cv3jax.training.train_step import TrainState, make_train_step

pytestmark = pytest.mark.usefixtures("quick_compiles")

W_DIM = 8
RANGE = (2.0, 9.0)


@pytest.fixture(autouse=True, scope="module")
def _float64():
    with jax.enable_x64(True):
        yield


def test_an_unknown_form_or_target_is_refused():
    rows = pairs(base_grid(4))
    with pytest.raises(ValueError, match="form must be released or paper, not 'linear'"):
        pair_weights("linear", rows.sigma, rows.blur)
    with pytest.raises(
        ValueError, match="target must be one of landing, x0, x0_root_snr, not 'eps'"
    ):
        distillation_loss(network, network, target="eps", w_dim=0, teacher_w_dim=0)


TEACHER = {"scale": 0.8, "shift": 0.7}
STUDENT = {"scale": 0.9, "shift": 0.2}


def a_round(grid, rows=None, w=RANGE, **options):
    settled = {"lr": 1e-3, "updates": 100, "warmup": 10, "decay": 0.99} | options
    return Round(
        pairs(double(grid), rows),
        jnp.asarray(w),
        *(jnp.asarray(settled[name]) for name in ("lr", "updates", "warmup", "decay")),
    )


def a_batch(relay):
    cond = {"text": normal(10, (B, 5, 3)), "size": normal(11, (B, 7))}
    return {"x0": normal(12), "cond": cond} | ({"low": normal(13)} if relay else {})


def keys(seed=0, n=B):
    return jax.random.split(jax.random.key(seed), n)


def loss_of(
    stage,
    student=network,
    teacher=network,
    *,
    teacher_w_dim=0,
    w=RANGE,
    target="landing",
    rows=None,
    params=STUDENT,
):
    grid, form = STAGES[stage]
    loss = distillation_loss(
        student, teacher, form=form, target=target, w_dim=W_DIM, teacher_w_dim=teacher_w_dim
    )
    return loss(
        params,
        {"teacher": TEACHER, "round": a_round(grid, rows, w)},
        a_batch(stage != "base"),
        keys(),
    )


@pytest.mark.parametrize("teacher_w_dim", [0, W_DIM], ids=["first round", "later round"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_is_0_where_the_student_says_what_a_constant_teacher_says(
    stage, target, teacher_w_dim
):
    """The prediction then does not change along the way, so x0* is that prediction.

    Not so where the student is off by one.
    """

    def constant(params, x, t, cond):
        # guidance changes nothing without text, and what is told of w is the same to both
        return cond["size"].sum(-1)[:, None, None, None] + network(
            {"scale": 0.0, "shift": 0.0}, x, t, {**cond, "text": cond["text"] * 0}
        )

    def student(params, x, t, cond):
        return constant(
            params, x, t, cond if teacher_w_dim else {name: cond[name] for name in ("text", "size")}
        )

    loss, metrics = loss_of(stage, student, constant, target=target, teacher_w_dim=teacher_w_dim)
    assert loss < 1e-25
    assert metrics["x0_error"] < 1e-25
    loss, metrics = loss_of(
        stage,
        lambda *args: student(*args) + 1,
        constant,
        target=target,
        teacher_w_dim=teacher_w_dim,
    )
    assert loss > 0.01
    np.testing.assert_allclose(metrics["x0_error"], 1, rtol=1e-12)


@pytest.mark.parametrize("stage", STAGES)
def test_a_guided_constant_teacher_is_the_student_s_target(stage):
    """Text alone: null + w (cond - null) = w cond, which the student must say for a loss of 0."""

    def text(params, x, t, cond):
        return jnp.zeros_like(x) + cond["text"].mean((1, 2))[:, None, None, None]

    assert loss_of(stage, lambda *args: 3 * text(*args), text, w=(3, 3))[0] < 1e-25
    assert loss_of(stage, lambda *args: 3 * text(*args), text, w=(4, 4))[0] > 1e-3


def by_hand(stage, teacher_w_dim, i, pair, w, noise):
    """Image i of the batch with what is drawn for it: (its landing point, the teacher's, x̂0, x0*,
    σ). w is a number here.
    """
    grid, form = STAGES[stage]
    batch, rows = (
        jax.tree.map(lambda v: v[i : i + 1], a_batch(stage != "base")),
        pairs(double(grid)),
    )
    t, sigma, blur = (values[pair][None] for values in (rows.t, rows.sigma, rows.blur))
    low, cond = batch.get("low", jnp.zeros((1, *SHAPE[1:]))), batch["cond"]
    m = mean(batch["x0"], low, blur[0, 0])
    x = m + sigma[0, 0] * noise
    embedded = {**cond, "w": guidance_embedding(jnp.full(1, w), W_DIM)}
    teacher, shown = (network, embedded) if teacher_w_dim else (guided(network, w), cond)
    first = teacher(TEACHER, x, t[:, 0], shown)
    second = teacher(TEACHER, land(form, [first], x, m, low, sigma, blur)[0], t[:, 1], shown)
    ours = network(STUDENT, x, t[:, 0], embedded)
    a, b, _ = pair_weights(form, sigma, blur)
    one = land(form, [ours], x, m, low, sigma[:, ::2], blur[:, ::2])[0]
    two = land(form, [first, second], x, m, low, sigma, blur)[0]
    return one[0], two[0], ours[0], (a * first + b * second)[0], sigma[0, 0]


@pytest.mark.parametrize("teacher_w_dim", [0, W_DIM], ids=["first round", "later round"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_by_hand(stage, teacher_w_dim):
    """Landing: the mean squared distance of two landing points. x0: the error of x0, weighted.

    Each image has a w of its own.
    """
    drawn = draw_pairs(keys(), SHAPE[1:], STAGES[stage][0].steps // 2, jnp.asarray(RANGE))
    images = [
        by_hand(stage, teacher_w_dim, i, int(pair), float(w), noise)
        for i, (pair, w, noise) in enumerate(zip(*drawn, strict=True))
    ]
    one, two, ours, wanted, sigma = (jnp.stack(values) for values in zip(*images, strict=True))
    error = ((ours - wanted) ** 2).mean((1, 2, 3))
    loss, metrics = loss_of(stage, teacher_w_dim=teacher_w_dim)
    np.testing.assert_allclose(loss, ((one - two) ** 2).mean(), rtol=1e-9)
    np.testing.assert_allclose(metrics["x0_error"], error.mean(), rtol=1e-9)
    for target, weight in (("x0", jnp.maximum(1 / sigma**2, 1)), ("x0_root_snr", 1 / sigma)):
        loss, metrics = loss_of(stage, teacher_w_dim=teacher_w_dim, target=target)
        np.testing.assert_allclose(loss, (weight * error).mean(), rtol=1e-9)
        np.testing.assert_allclose(metrics["x0_error"], error.mean(), rtol=1e-9)


def test_a_base_stage_has_one_form():
    """Whatever `form` says: without `low` it is the released one, as in the sampler."""
    now, batch = a_round(STAGES["base"][0]), a_batch(relay=False)
    losses = []
    for form in sampler.MEANS:
        loss = distillation_loss(network, network, form=form, w_dim=0, teacher_w_dim=0)
        losses.append(loss(STUDENT, {"teacher": TEACHER, "round": now}, batch, keys())[0])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("teacher_w_dim", [0, W_DIM], ids=["first round", "later round"])
def test_who_is_shown_what(teacher_w_dim):
    """The first teacher sees the text and null in one batch of twice the rows, no w; the later ones
    and students see w and no null.
    """
    shown = {"student": [], "teacher": []}

    def spy(name):
        def denoise(params, x, t, cond):
            shown[name].append((x, t, cond))
            return network(params, x, t, cond)

        return denoise

    loss_of("relay", spy("student"), spy("teacher"), teacher_w_dim=teacher_w_dim)
    text = a_batch(relay=True)["cond"]["text"]
    _, w, _ = draw_pairs(keys(), SHAPE[1:], STAGES["relay"][0].steps // 2, jnp.asarray(RANGE))
    assert len(np.unique(w)) == B
    ((x, t, cond),) = shown["student"]
    np.testing.assert_array_equal(cond["text"], text)
    np.testing.assert_array_equal(cond["w"], guidance_embedding(w, W_DIM))
    assert len(shown["teacher"]) == 2
    np.testing.assert_array_equal(shown["teacher"][0][0][:B], x)  # from where the student starts
    np.testing.assert_array_equal(shown["teacher"][0][1][:B], t)
    for _, t, teacher_cond in shown["teacher"]:
        if teacher_w_dim:
            assert len(t) == B
            jax.tree.map(np.testing.assert_array_equal, teacher_cond, cond)
        else:
            assert len(t) == 2 * B
            assert "w" not in teacher_cond
            np.testing.assert_array_equal(
                teacher_cond["text"], np.concatenate([np.zeros_like(text), text])
            )


def test_a_model_without_w_is_told_none():
    cond = {"text": normal(0, (B, 5, 3))}
    assert told(cond, jnp.full(B, 7.5), 0) is cond
    assert set(told(cond, jnp.full(B, 7.5), W_DIM)) == {"text", "w"}
    assert set(cond) == {"text"}


@pytest.mark.parametrize("teacher_w_dim", [0, W_DIM], ids=["first round", "later round"])
@pytest.mark.parametrize("stage", STAGES)
def test_no_gradient_flows_to_the_teacher(stage, teacher_w_dim):
    grid, form = STAGES[stage]
    loss = distillation_loss(network, network, form=form, w_dim=W_DIM, teacher_w_dim=teacher_w_dim)

    def both(params, teacher):
        return loss(
            params, {"teacher": teacher, "round": a_round(grid)}, a_batch(stage != "base"), keys()
        )[0]

    to_student, to_teacher = jax.grad(both, argnums=(0, 1))(STUDENT, TEACHER)
    assert all(abs(value) > 1e-3 for value in jax.tree.leaves(to_student))
    assert not any(jax.tree.leaves(to_teacher))


def test_rows_past_the_count_change_no_loss():
    for stage in STAGES:
        np.testing.assert_array_equal(loss_of(stage, rows=16)[0], loss_of(stage)[0])


@pytest.mark.parametrize("family", ["base", "relay"])
def test_rounds_of_a_kind_share_one_compilation(family):
    traced = []

    def student(params, x, t, cond):
        traced.append(t)
        return network(params, x, t, cond)

    loss = distillation_loss(student, network, w_dim=W_DIM, teacher_w_dim=W_DIM)
    step = jax.jit(
        make_train_step(
            loss,
            optax.sgd(1.0),
            decay=lambda f: f["round"].decay,
            rate=lambda f, step: f["round"].lr,
        )
    )
    params = jax.tree.map(jnp.asarray, STUDENT)
    state = TrainState(jnp.array(0), jax.random.key(0), params, params, optax.sgd(1.0).init(params))
    seen = []
    for n in (16, 8, 4):
        grid = base_grid(n) if family == "base" else relay_grid(n, 500)
        now = a_round(grid, rows=8, w=(n / 2, n), lr=1.0 / n, updates=n, decay=1 - 1 / n)
        _, metrics = step(state, {"teacher": TEACHER, "round": now}, a_batch(family == "relay"))
        seen.append(float(metrics["loss"]))
    assert len(traced) == 1
    assert len(set(seen)) == 3


def test_draws_are_uniform_and_an_image_s_own():
    n, count = 20_000, 5
    drawn = jax.jit(draw_pairs, static_argnums=1)
    pair, w, noise = drawn(keys(n=n), (2, 2, 1), count, jnp.asarray(RANGE))
    share = np.bincount(pair, minlength=count) / n
    assert len(share) == count
    np.testing.assert_allclose(share, 1 / count, rtol=0, atol=5 * (1 / count / n) ** 0.5)
    assert RANGE[0] <= w.min() < RANGE[0] + 0.01
    assert RANGE[1] - 0.01 < w.max() <= RANGE[1]
    np.testing.assert_allclose(
        np.histogram(w, 7, RANGE)[0] / n, 1 / 7, rtol=0, atol=5 * (1 / 7 / n) ** 0.5
    )
    assert abs(np.corrcoef([pair, w, *noise.reshape(n, -1).T]) - np.eye(6)).max() < 5 / n**0.5
    np.testing.assert_allclose(noise.std(), 1, rtol=5 * (8 * n) ** -0.5)
    for ours, theirs in zip(
        drawn(keys(n=n)[7:9], (2, 2, 1), count, jnp.asarray(RANGE)), (pair, w, noise), strict=True
    ):
        np.testing.assert_array_equal(ours, theirs[7:9])  # whoever its neighbours are
    pair, w, _ = drawn(keys(n=n), (2, 2, 1), 1, jnp.asarray((5.0, 5.0)))
    assert not pair.any()
    np.testing.assert_array_equal(w, 5.0)


def test_a_round_sets_the_pace_of_a_train_step():
    """An update is the optimizer's times `rate`, to the bit, and the average moves by 1 - `decay`:
    what the round says, not the program.
    """
    tx = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1), optax.scale(-1.0))
    params = {"a": normal(0, (3, 2)), "b": normal(1, (4,))}

    def loss(params, frozen, batch, keys):
        return (
            sum(jnp.sum(jnp.sin(value) * batch["x"].mean()) for value in jax.tree.leaves(params)),
            {},
        )

    def rate(frozen, step):
        return frozen.lr * jnp.minimum(step / frozen.warmup, 1.0)

    step = jax.jit(make_train_step(loss, tx, rate=rate, decay=lambda frozen: frozen.decay))
    batch, now = {"x": normal(2, (8,))}, a_round(base_grid(4), lr=0.5, warmup=4, decay=0.75)
    grads = jax.grad(lambda p: loss(p, None, batch, None)[0])(params)
    updates, _ = jax.jit(tx.update)(grads, tx.init(params), params)
    # warming up, warm, and another pace without another compilation; by then the cap on the decay
    # is above it
    for at, other, factor in [
        (100, {}, 0.5),
        (100, {"lr": 0.25, "decay": 0.5}, 0.25),
        (2, {}, 0.25),
    ]:
        frozen = dataclasses.replace(
            now, **{name: jnp.asarray(value) for name, value in other.items()}
        )
        ema = jax.tree.map(lambda p: p + 1, params)
        state, _ = step(
            TrainState(jnp.array(at), jax.random.key(0), params, ema, tx.init(params)),
            frozen,
            batch,
        )
        decay = min(float(frozen.decay), (1 + at) / (10 + at))
        for name, value in params.items():
            np.testing.assert_array_equal(
                state.params[name] - value, (value + factor * updates[name]) - value
            )
            np.testing.assert_allclose(
                state.ema[name],
                decay * ema[name] + (1 - decay) * state.params[name],
                rtol=1e-14,
                atol=1e-14,
            )
    assert step._cache_size() == 1
