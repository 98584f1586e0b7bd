"""Progressive distillation, in base and relay stages (paper Eq. 8-9).

One step of a student lands where two steps of its teacher do. On the teacher's grid t → m → s the
teacher predicts D₁ at t and D₂ at m. The x0 with which a single step from t lands in the same place
is an average of the two. It depends neither on x nor on low:

    released form   x0* = [r₂((1-b_m) - r₁(1-b_t)) D₁ + ((1-b_s) - r₂(1-b_m)) D₂] / c,
                    c = (1-b_s) - r₁r₂(1-b_t)
    paper's form    x0* = [ρ₂(1-ρ₁) D₁ + (1-ρ₂) D₂] / c,
                    c = 1 - ρ₁ρ₂

with r₁ = σ_m/σ_t, r₂ = σ_s/σ_m, ρ₁ = b_m/b_t, ρ₂ = b_s/b_m.

c is how far the landing point moves with the x0 of the step. A base stage is the released form with
blur 0.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from cv3jax.diffusion.denoiser import Cond, Denoise, Params, guided
from cv3jax.diffusion.losses import weight
from cv3jax.diffusion.sampler import means, step
from cv3jax.diffusion.schedule import Grid, mean, per_sample
from cv3jax.distillation import TARGETS
from cv3jax.models.embeddings import guidance_embedding


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Pairs:
    """The pairs of teacher steps of a round, one for each student step.

    The rows after `count` are padding, so that rounds of one kind have the same shape.
    """

    t: jax.Array  # int32 [K, 3], at t, m and s
    sigma: jax.Array  # float32 [K, 3]
    blur: jax.Array  # float32 [K, 3]
    count: jax.Array  # int32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Round:
    """What differs between rounds, as arguments of the train step.

    So one compilation serves all rounds of a kind.
    """

    pairs: Pairs
    w: jax.Array  # float32 [2], the range that guidance weights are drawn from
    lr: jax.Array  # float32
    updates: jax.Array  # int32, of the whole round
    warmup: jax.Array  # int32, of these
    decay: jax.Array  # float32, of the EMA


def pairs(grid: Grid, rows: int | None = None) -> Pairs:
    """Return the pairs of the teacher's `grid`, padded to `rows`.

    Raises ValueError where the number of its steps is odd or too large.
    """
    count = grid.steps // 2
    rows = count if rows is None else rows
    if grid.steps != 2 * count or not 1 <= count <= rows:
        raise ValueError(f"a grid of {grid.steps} steps does not divide into 1..{rows} pairs")
    row = jnp.minimum(jnp.arange(rows), count - 1)[:, None] * 2 + jnp.arange(3)
    return Pairs(grid.t[row], grid.sigma[row], grid.blur[row], jnp.asarray(count, jnp.int32))


def pair_weights(
    form: str, sigma: jax.Array, blur: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (weight of D₁, weight of D₂, c) of pairs of steps [..., 3]; the weights sum to 1.

    Raises ValueError on an unknown form.
    """
    (s_t, s_m, s_s), (b_t, b_m, b_s) = (jnp.moveaxis(values, -1, 0) for values in (sigma, blur))
    if form == "released":
        r1, r2 = s_m / s_t, s_s / s_m
        first, second = r2 * ((1.0 - b_m) - r1 * (1.0 - b_t)), (1.0 - b_s) - r2 * (1.0 - b_m)
    elif form == "paper":
        rho1, rho2 = b_m / b_t, b_s / b_m
        first, second = rho2 * (1.0 - rho1), 1.0 - rho2
    else:
        raise ValueError(f"form must be released or paper, not {form!r}")
    moved = first + second
    return first / moved, second / moved, moved


def two_steps(
    predict: Callable[[jax.Array, jax.Array], jax.Array],
    form: str,
    x: jax.Array,
    m: jax.Array,
    low: jax.Array,
    t: jax.Array,
    sigma: jax.Array,
    blur: jax.Array,
) -> jax.Array:
    """Return x0* of each image of x [B, H, W, C] at t [B, 3].

    It takes two predictions (x, t [B]) → x̂0. m: the mean at t, for the paper's form.
    """
    (s_t, s_m), (b_t, b_m) = (
        [per_sample(values[:, i], x) for i in (0, 1)] for values in (sigma, blur)
    )
    first = predict(x, t[:, 0])
    m_t, m_m = means(form, first, low, m, b_t, b_m)
    second = predict(step(x, m_t, m_m, s_t, s_m, 0.0, jnp.zeros_like(x)), t[:, 1])
    a, b, _ = (per_sample(values, x) for values in pair_weights(form, sigma, blur))
    return a * first + b * second


def draw_pairs(
    keys: jax.Array, shape: tuple[int, ...], count: jax.Array, w: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Return (pair [B], w [B], noise [B, H, W, C]) for images of `shape`, from one key each.

    Pairs are uniform in 0..count - 1, and w is uniform in its range.
    """

    def one(key):
        key_pair, key_w, key_noise = jax.random.split(key, 3)
        pair = jax.random.randint(key_pair, (), 0, count)
        return (
            pair,
            jax.random.uniform(key_w, (), minval=w[0], maxval=w[1]),
            jax.random.normal(key_noise, shape),
        )

    return jax.vmap(one)(keys)


def with_guidance(cond: Cond, w: jax.Array, w_dim: int) -> Cond:
    """Return `cond` with the guidance weights w [B] embedded in w_dim dimensions.

    With w_dim = 0, for a model that is not guidance-conditioned, return `cond`.
    """
    return {**cond, "w": guidance_embedding(w, w_dim)} if w_dim else cond


def pair_losses(
    student: Denoise,
    teacher: Denoise,
    *,
    form: str = "released",
    target: str = "landing",
    w_dim: int,
    teacher_w_dim: int,
    read_text: Callable[[Params, jax.Array], Any] | None = None,
) -> Callable:
    """Return the losses of images at given pairs, guidance weights and noise.

    It is (params, {"teacher": parameters, "round": Round}, batch, (pair [B], w [B], noise
    [B, H, W, C])) → (losses [B], mean squared errors of x0 [B]). The batch is that of
    `diffusion_loss` without dropped text; it has `low` for a relay.

    A teacher with teacher_w_dim = 0 is guided by w (round 1: its passes have twice the rows). Any
    other teacher is guidance-conditioned, like the student. The target "landing" is the paper's:
    the distance of the landing points. "x0" is the error of x0 with the weight max(1/σ_t², 1),
    "x0_root_snr" with 1/σ_t. Images are noised at the grid's own points, without offset noise, as
    the sampler sees them. Raises ValueError on another target.

    read_text: (teacher's parameters, text [B, L, C]) → its keys and values, which both predictions
    of the teacher then share. Without it each prediction computes them from the text.
    """
    if target not in TARGETS:
        raise ValueError(f"target must be one of {', '.join(TARGETS)}, not {target!r}")

    def losses(params, frozen, batch, drawn):
        x0, cond, now = batch["x0"], batch["cond"], frozen["round"]
        low, way = (batch["low"], form) if "low" in batch else (jnp.zeros_like(x0), "released")
        pair, w, noise = drawn
        t, sigma, blur = (values[pair] for values in (now.pairs.t, now.pairs.sigma, now.pairs.blur))
        m = mean(x0, low, per_sample(blur[:, 0], x0))
        x = m + per_sample(sigma[:, 0], x0) * noise

        predict = teacher if teacher_w_dim else guided(teacher, w)
        shown = with_guidance(cond, w, teacher_w_dim)
        if read_text is not None:
            shown = {**shown, "text": read_text(frozen["teacher"], cond["text"])}
        wanted = two_steps(
            lambda x, t: predict(frozen["teacher"], x, t, shown), way, x, m, low, t, sigma, blur
        )
        predicted = student(params, x, t[:, 0], with_guidance(cond, w, w_dim))
        error = predicted - jax.lax.stop_gradient(wanted)
        squared = (error**2).mean(axis=(1, 2, 3))
        moved = pair_weights(way, sigma, blur)[2]
        scale = moved**2 if target == "landing" else weight(sigma[:, 0], TARGETS[target])
        return scale * squared, squared

    return losses


def drawn_loss(losses: Callable) -> Callable[[Params, Any, dict, jax.Array], tuple]:
    """Return the loss function of `pair_losses`, at pairs, weights and noise of `draw_pairs`.

    It is (params, {"teacher": parameters, "round": Round}, batch, keys [B]) → (loss, metrics).
    """

    def loss_fn(params, frozen, batch, keys):
        now = frozen["round"]
        drawn = draw_pairs(keys, batch["x0"].shape[1:], now.pairs.count, now.w)
        each, squared = losses(params, frozen, batch, drawn)
        return each.mean(), {"x0_error": squared.mean()}

    return loss_fn


def distillation_loss(
    student: Denoise,
    teacher: Denoise,
    *,
    form: str = "released",
    target: str = "landing",
    w_dim: int,
    teacher_w_dim: int,
    read_text: Callable[[Params, jax.Array], Any] | None = None,
) -> Callable[[Params, Any, dict, jax.Array], tuple[jax.Array, dict]]:
    """Return the `drawn_loss` of a stage. The arguments are those of `pair_losses`."""
    losses = pair_losses(
        student,
        teacher,
        form=form,
        target=target,
        w_dim=w_dim,
        teacher_w_dim=teacher_w_dim,
        read_text=read_text,
    )
    return drawn_loss(losses)
