"""Sampling as one scan over a grid: base and relay, deterministic or not, in two forms.

    released form    m_t = mean(x̂0, low, b_t),  m_s = mean(x̂0, low, b_s)
    paper's form     m_s = (b_s/b_t) m_t + (1 - b_s/b_t) x̂0,  m starts at low        Algorithm 1
    step             x_s = m_s + √(σ_s² - δ²)/σ_t (x_t - m_t) + δ ε,  δ = η σ_s √(1 - σ_s²/σ_t²)

In the released form low stays fixed. Base diffusion is the case b = 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from cv3jax.diffusion.schedule import Grid, mean, per_sample

Predict = Callable[[jax.Array, jax.Array], jax.Array]  # (x [B, H, W, C], t int [B]) → x̂0
State = tuple[jax.Array, jax.Array]  # (x, the carried mean), both [B, H, W, C]


def start(grid: Grid, noise: jax.Array, low: jax.Array | None = None) -> jax.Array:
    """Return where sampling begins: √(1 + σ²) ε for a base stage, low + σ ε for a relay stage.

    noise: ε, [B, H, W, C].
    """
    return start_rows(grid.sigma[0], noise, low)


def start_rows(sigma: jax.Array, noise: jax.Array, low: jax.Array | None = None) -> jax.Array:
    """Return `start` from the σ of the first point, a scalar or [B]."""
    sigma = per_sample(sigma, noise)
    return jnp.sqrt(1.0 + sigma**2) * noise if low is None else low + sigma * noise


class Point(NamedTuple):
    """A step of the grid from t to s: time, σ and blur at both ends, scalars or [B]."""

    t: jax.Array
    s: jax.Array
    sigma_t: jax.Array
    sigma_s: jax.Array
    b_t: jax.Array
    b_s: jax.Array


# (x0, low, carried mean, b_t, b_s) → (m_t, m_s), the means at the two ends of a step
MEANS: dict[str, Callable] = {
    "released": lambda x0, low, m, b_t, b_s: (mean(x0, low, b_t), mean(x0, low, b_s)),
    "paper": lambda x0, low, m, b_t, b_s: (m, b_s / b_t * m + (1.0 - b_s / b_t) * x0),
}


def means(
    form: str, x0: jax.Array, low: jax.Array, m: jax.Array, b_t: jax.Array, b_s: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Return (m_t, m_s), the means at the two ends of a step, by the form's name in MEANS.

    `m` is the carried mean, which only the paper's form reads. Raises ValueError on another name.
    """
    if form not in MEANS:
        raise ValueError(f"form must be one of {', '.join(MEANS)}, not {form!r}")
    return MEANS[form](x0, low, m, b_t, b_s)


def step(
    x: jax.Array,
    m_t: jax.Array,
    m_s: jax.Array,
    sigma_t: jax.Array,
    sigma_s: jax.Array,
    eta: float | jax.Array,
    noise: jax.Array,
) -> jax.Array:
    """Return x after one step from σ_t to σ_s, between the means m_t and m_s of its ends.

    η = 0 is Euler in σ, η = 1 is ancestral.
    """
    delta = eta * sigma_s * jnp.sqrt(1.0 - (sigma_s / sigma_t) ** 2)
    return m_s + jnp.sqrt(sigma_s**2 - delta**2) / sigma_t * (x - m_t) + delta * noise


def first_order(form: str) -> Callable:
    """Return a sampler with one prediction per step, between the means of that form."""

    def advance(
        predict: Predict,
        x: jax.Array,
        m: jax.Array,
        low: jax.Array,
        point: Point,
        eta: float | jax.Array,
        noise: jax.Array,
    ) -> tuple[jax.Array, jax.Array]:
        x0 = predict(x, jnp.full(x.shape[:1], point.t))
        sigma_t, sigma_s, b_t, b_s, rate = (per_sample(value, x) for value in (*point[2:], eta))
        m_t, m_s = means(form, x0, low, m, b_t, b_s)
        return step(x, m_t, m_s, sigma_t, sigma_s, rate, noise), m_s

    return advance


# name → function (predict, x, carried mean, low, point, η, noise) → (x_s, carried mean); add a row
# for a new sampler, which `sample.form` of a recipe or a cascade then names
FORMS: dict[str, Callable] = {form: first_order(form) for form in MEANS}


def sample(
    predict: Predict,
    grid: Grid,
    x: jax.Array,
    low: jax.Array | None = None,
    *,
    keys: jax.Array | None = None,
    eta: float = 0.0,
    form: str = "released",
) -> tuple[jax.Array, jax.Array]:
    """Run `predict` down the grid from x (see `start`).

    Returns (x at σ = 0, the trajectory [n, B, H, W, C] after each step). Under jit an unused
    trajectory costs nothing. `keys` [B], one per image, draw the noise of η > 0 and are needed only
    then.
    """
    state, advance, points = _steps(predict, grid, x, low, keys, eta, form)

    def body(state: State, at: tuple) -> tuple[State, jax.Array]:
        state = advance(state, *at)
        return state, state[0]

    (x, _), trajectory = jax.lax.scan(body, state, (jnp.arange(grid.steps), points))
    return x, trajectory


def sample_steps(
    predict: Predict,
    grid: Grid,
    state: State,
    low: jax.Array | None,
    between: tuple[jax.Array, jax.Array],
    *,
    keys: jax.Array | None = None,
    eta: float = 0.0,
    form: str = "released",
) -> State:
    """Run steps begin..end - 1 of `sample`, where `between` is (begin, end), int32.

    state: (x, the carried mean), of `first_state` or of the steps before. Returns that of the last
    step. All ranges of steps are one program, so that pictures do not depend on how the steps are
    split.
    """
    _, advance, points = _steps(predict, grid, state[0], low, keys, eta, form)

    def body(number: jax.Array, state: State) -> State:
        return advance(state, number, jax.tree.map(lambda x: x[number], points))

    return jax.lax.fori_loop(*between, body, state)


class RowStep(NamedTuple):
    """The step that each row of a batch takes next; rows need not be at the same one."""

    point: Point  # every field [B]
    number: jax.Array  # int32 [B], from 0 in the row's own grid
    keys: jax.Array  # [B], as `sample` takes them
    eta: jax.Array  # float32 [B]


def step_rows(
    predict: Predict, state: State, low: jax.Array | None, rows: RowStep, form: str = "released"
) -> tuple[State, jax.Array]:
    """Take one step of each row, with a time, grid, η and key of its own.

    A row gets what `sample_steps` gives it, up to rounding, whatever steps its neighbours take.
    state: (x, the carried mean). low: None for base stages. Noise is drawn for rows of η = 0 too,
    and multiplied by 0. Returns (the next state, the x̂0 [B, H, W, C] that the step predicted).

    Raises ValueError on an unknown form.
    """
    x, m = state
    seen = []

    def recorded(x: jax.Array, t: jax.Array) -> jax.Array:
        seen.append(predict(x, t))
        return seen[-1]

    noise = jax.vmap(
        lambda key, number: jax.random.normal(jax.random.fold_in(key, number), x.shape[1:])
    )(rows.keys, rows.number)
    advance = _form(form, low)
    state = advance(recorded, x, m, m if low is None else low, rows.point, rows.eta, noise)
    return state, seen[-1]


def first_state(x: jax.Array, low: jax.Array | None) -> State:
    """Return what `sample_steps` begins with: x of `start`, and `low` or zeros."""
    return x, jnp.zeros_like(x) if low is None else low


def predicted(
    form: str, grid: Grid, number: int, low: jax.Array | None, before: State, after: State
) -> jax.Array:
    """Return the x̂0 that step `number` predicted, from the states before and after it.

    It is what the step's mean was made of.
    """
    b_t, b_s = grid.blur[number], grid.blur[number + 1]
    if low is None:
        return after[1]
    if form == "paper":
        kept = b_s / b_t
        return (after[1] - kept * before[1]) / (1.0 - kept)
    return (after[1] - b_s * low) / (1.0 - b_s)


def _steps(
    predict: Predict,
    grid: Grid,
    x: jax.Array,
    low: jax.Array | None,
    keys: jax.Array | None,
    eta: float,
    form: str,
) -> tuple[State, Callable[[State, jax.Array, Point], State], Point]:
    """Return (the first state, the function of a step's state, number and point, all points)."""
    if eta and keys is None:
        raise ValueError("eta > 0 draws noise at every step: pass keys, one per image")
    taken = _form(form, low)
    state = first_state(x, low)
    low = state[1] if low is None else low

    def advance(state: State, number: jax.Array, point: Point) -> State:
        x, m = state
        noise = (
            jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, number), x.shape[1:]))(
                keys
            )
            if eta
            else jnp.zeros_like(x)
        )
        return taken(predict, x, m, low, point, eta, noise)

    sigma, blur = grid.sigma, grid.blur
    points = Point(grid.t[:-1], grid.t[1:], sigma[:-1], sigma[1:], blur[:-1], blur[1:])
    return state, advance, points


def _form(form: str, low: jax.Array | None) -> Callable:
    """Return the function of FORMS for a name. Raises ValueError on another one."""
    if form not in FORMS:
        raise ValueError(f"form must be one of {', '.join(FORMS)}, not {form!r}")
    if low is None and form == "paper":  # without blur the released form and the paper's are equal
        form = "released"
    return FORMS[form]
