"""Test the loss of a distillation step in float64.

It is computed by hand and with a constant teacher. The inputs of teacher and student are tested
too.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distillation_cases import SHAPE, STAGES, B, double, land, network, normal
from distillation_rounds import RANGE, STUDENT, TEACHER, W_DIM, a_batch, a_round, keys, loss_of

from cv3jax.diffusion import sampler
from cv3jax.diffusion.denoiser import guided
from cv3jax.diffusion.schedule import base_grid, mean
from cv3jax.distillation import TARGETS
from cv3jax.distillation.loss import (
    distillation_loss,
    draw_pairs,
    pair_weights,
    pairs,
    with_guidance,
)
from cv3jax.models.embeddings import guidance_embedding


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


@pytest.mark.parametrize("teacher_w_dim", [0, W_DIM], ids=["first round", "later round"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("stage", STAGES)
def test_the_loss_is_0_where_the_student_says_what_a_constant_teacher_says(
    stage, target, teacher_w_dim
):
    """With a constant prediction x0* is that prediction.

    The loss is above 0 if the student is off by one.
    """

    def constant(params, x, t, cond):
        # guidance changes nothing without text, and both get the same w
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
    """With text alone, null + w (cond - null) = w cond is the prediction of loss 0."""

    def text(params, x, t, cond):
        return jnp.zeros_like(x) + cond["text"].mean((1, 2))[:, None, None, None]

    assert loss_of(stage, lambda *args: 3 * text(*args), text, w=(3, 3))[0] < 1e-25
    assert loss_of(stage, lambda *args: 3 * text(*args), text, w=(4, 4))[0] > 1e-3


def by_hand(stage, teacher_w_dim, i, pair, w, noise):
    """Return (the landing point, the teacher's, x̂0, x0*, σ) of image i of the batch.

    They are computed with its draws; w is a number here.
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
    """Target "landing" is the mean squared distance of landing points, "x0" the weighted error.

    Each image has its own w.
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
    """Without `low` the form is the released one, as in the sampler, for any `form`."""
    now, batch = a_round(STAGES["base"][0]), a_batch(relay=False)
    losses = []
    for form in sampler.MEANS:
        loss = distillation_loss(network, network, form=form, w_dim=0, teacher_w_dim=0)
        losses.append(loss(STUDENT, {"teacher": TEACHER, "round": now}, batch, keys())[0])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("teacher_w_dim", [0, W_DIM], ids=["first round", "later round"])
def test_who_is_shown_what(teacher_w_dim):
    """The first teacher sees null and the text in turns, in one batch of twice the rows, without w.

    Later teachers and students see w and no null.
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
    turns = 1 if teacher_w_dim else 2
    for row in range(turns):  # from where the student starts
        np.testing.assert_array_equal(shown["teacher"][0][0][row::turns], x)
        np.testing.assert_array_equal(shown["teacher"][0][1][row::turns], t)
    for _, t, teacher_cond in shown["teacher"]:
        if teacher_w_dim:
            assert len(t) == B
            jax.tree.map(np.testing.assert_array_equal, teacher_cond, cond)
        else:
            assert len(t) == 2 * B
            assert "w" not in teacher_cond
            assert not teacher_cond["text"][::2].any()
            np.testing.assert_array_equal(teacher_cond["text"][1::2], text)


def test_a_model_without_w_gets_none():
    cond = {"text": normal(0, (B, 5, 3))}
    assert with_guidance(cond, jnp.full(B, 7.5), 0) is cond
    assert set(with_guidance(cond, jnp.full(B, 7.5), W_DIM)) == {"text", "w"}
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
