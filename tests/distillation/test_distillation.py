"""Test progressive distillation in float64: where x0* lands, and the points of a round.

test_distillation_loss.py tests the loss.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distillation_cases import SHAPE, B, double, land, normal
from hypothesis import given, settings
from hypothesis import strategies as st

from cv3jax.diffusion import sampler
from cv3jax.diffusion.schedule import Grid, base_grid, custom_grid, per_sample, relay_grid
from cv3jax.distillation.loss import pair_weights, pairs, two_steps

ROWS = 16  # pairs are padded to as many, so that all grids share what is compiled
# what neither released family has: uneven t, blur that is neither k/p nor the table's
UNEVEN = custom_grid([600, 480, 90, 30, 0], [1.0, 0.9, 0.4, 0.15, 0.0])
STARTS = (500, 200, 40)
CASES = {
    **{f"base {n}": (base_grid(n), "released") for n in (32, 16, 8)},
    "base uneven": (custom_grid([1000, 950, 400, 3, 0]), "released"),
    **{
        f"relay {p} from {start} {form}": (relay_grid(p, start), form)
        for p in (8, 4, 2)
        for start in STARTS
        for form in sampler.MEANS
    },
    **{f"relay uneven {form}": (UNEVEN, form) for form in sampler.MEANS},
}


@pytest.fixture(autouse=True, scope="module")
def _float64():
    with jax.enable_x64(True):
        yield


@functools.partial(jax.jit, static_argnames="form")
def landings(form, rows, first, second, x, low, m):
    """Return the ends of one step with x0* and of two steps with D₁ and D₂.

    An end is x and the carried mean. There is a row of pairs for each image.
    """
    x0 = two_steps(
        lambda x, t: jnp.where(per_sample(t == rows.t[:, 0], x), first, second),
        form,
        x,
        m,
        low,
        rows.t,
        rows.sigma,
        rows.blur,
    )
    one = land(form, [x0], x, m, low, rows.sigma[:, ::2], rows.blur[:, ::2])
    return one, land(form, [first, second], x, m, low, rows.sigma, rows.blur)


def check_landing(grid, form, seed, size=1.0):
    (one, m_one), (two, m_two) = landings(
        form, pairs(double(grid), ROWS), *size * normal(seed, (5, ROWS, 2, 2, 1))
    )
    np.testing.assert_allclose(one, two, rtol=0, atol=1e-11 * size)
    if form == "paper":  # so that the student's later steps are the teacher's too
        np.testing.assert_allclose(m_one, m_two, rtol=0, atol=1e-11 * size)


@pytest.mark.parametrize("case", CASES)
def test_one_step_with_x0_star_lands_where_two_steps_do(case):
    check_landing(*CASES[case], seed=len(case))


@st.composite
def grids(draw):
    """Draw a grid of two or four steps whose blur the paper's form can divide by."""
    steps = draw(st.sampled_from([2, 4]))
    t = draw(st.lists(st.integers(1, 1000), min_size=steps, max_size=steps, unique=True))
    blur = draw(st.lists(st.integers(1, 100), min_size=steps, max_size=steps, unique=True))
    return custom_grid(
        [*sorted(t, reverse=True), 0], [*(b / 100 for b in sorted(blur, reverse=True)), 0.0]
    )


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    grid=grids(),
    form=st.sampled_from(list(sampler.MEANS)),
    seed=st.integers(0, 10**6),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_it_does_for_any_grid(grid, form, seed, size):
    check_landing(grid, form, seed, size)
    weights_are_an_average(grid, form)


def nonlinear(x, t):
    return jnp.tanh(x) * (1 + 0.01 * per_sample(t, x)) - 0.3


@functools.partial(jax.jit, static_argnames="form")
def sampled(form, grid, x, low):
    return sampler.sample(nonlinear, grid, x, low, form=form)


@pytest.mark.parametrize("case", CASES)
def test_the_teacher_is_asked_where_the_sampler_would_ask(case):
    """x0* also brings x to the end of a run of the sampler from t over m to s."""
    (grid, form), asked = CASES[case], []

    def predict(x, t):
        asked.append((x, t))
        return nonlinear(x, t)

    rows = jax.tree.map(np.asarray, pairs(double(grid)))
    for i in {0, rows.count - 1}:
        asked.clear()
        x, low = 3 * normal(i), normal(i + 1) if case.startswith("relay") else jnp.zeros(SHAPE)
        t, sigma, blur = (jnp.tile(v[i], (B, 1)) for v in (rows.t, rows.sigma, rows.blur))
        # the paper's m is low where a sampler starts
        x0 = two_steps(predict, form, x, low, low, t, sigma, blur)
        final, trajectory = sampled(form, Grid(rows.t[i], rows.sigma[i], rows.blur[i]), x, low)
        (x_t, t_t), (x_m, t_m) = asked
        np.testing.assert_array_equal(x_t, x)
        np.testing.assert_allclose(x_m, trajectory[0], rtol=0, atol=1e-11)
        np.testing.assert_array_equal([t_t, t_m], t.T[:2])
        np.testing.assert_allclose(
            land(form, [x0], x, low, low, sigma[:, ::2], blur[:, ::2])[0], final, rtol=0, atol=1e-10
        )


def weights_are_an_average(grid, form):
    rows = pairs(double(grid), ROWS)
    first, second, moved = map(np.asarray, pair_weights(form, rows.sigma, rows.blur))
    np.testing.assert_allclose(first + second, 1, rtol=0, atol=1e-14)
    for values in (first, second, moved):
        assert (values >= 0).all()
        assert (values <= 1 + 1e-14).all()
    assert (moved > 0).all()
    # the last step of all sets x to x̂0
    assert (first[-1], second[-1], moved[-1]) == (0, 1, 1)


@pytest.mark.parametrize("case", CASES)
def test_x0_star_is_an_average_and_at_the_end_the_second_prediction(case):
    weights_are_an_average(*CASES[case])


@pytest.mark.parametrize("case", CASES)
def test_c_is_how_far_the_landing_moves_with_x0(case):
    grid, form = CASES[case]
    rows = pairs(double(grid), ROWS)
    x, low, m, x0 = normal(0, (4, ROWS, 2, 2, 1))
    points = rows.sigma[:, ::2], rows.blur[:, ::2]
    _, moved = jax.jvp(
        lambda x0: land(form, [x0], x, m, low, *points)[0], (x0,), (jnp.ones_like(x0),)
    )
    np.testing.assert_allclose(
        moved - pair_weights(form, rows.sigma, rows.blur)[2][:, None, None, None],
        0,
        rtol=0,
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("many", "few"),
    [(base_grid(2 * n), base_grid(n)) for n in (16, 8, 4)]
    + [(relay_grid(2 * p, start), relay_grid(p, start)) for p in (4, 2, 1) for start in STARTS],
)
def test_the_student_s_grid_is_every_second_point_of_the_teacher_s(many, few):
    rows, many, few = jax.tree.map(np.asarray, (pairs(many), many, few))
    for teacher, student in zip(jax.tree.leaves(many), jax.tree.leaves(few), strict=True):
        np.testing.assert_array_equal(teacher[::2], student)
    assert rows.count == few.steps
    for values, teacher, student in zip(
        (rows.t, rows.sigma, rows.blur), jax.tree.leaves(many), jax.tree.leaves(few), strict=True
    ):
        np.testing.assert_array_equal(values[:, 0], student[:-1])
        np.testing.assert_array_equal(values[:, 1], teacher[1::2])
        np.testing.assert_array_equal(values[:, 2], student[1:])


def test_rows_past_the_count_make_shapes_alike():
    padded, plain = pairs(base_grid(8), rows=16), pairs(base_grid(8))
    assert padded.count == plain.count == 4
    assert jax.tree.map(jnp.shape, padded) == jax.tree.map(jnp.shape, pairs(base_grid(32)))
    for ours, theirs in (
        (padded.t, plain.t),
        (padded.sigma, plain.sigma),
        (padded.blur, plain.blur),
    ):
        np.testing.assert_array_equal(ours[:4], theirs)
    assert np.isfinite(padded.sigma).all()  # also in rows that no image is drawn from


@pytest.mark.parametrize(("steps", "rows"), [(1, None), (7, None), (32, 15), (2, 0)])
def test_a_grid_that_does_not_pair_up_is_refused(steps, rows):
    wanted = steps // 2 if rows is None else rows
    with pytest.raises(
        ValueError, match=rf"{steps} steps does not divide into 1\.\.{wanted} pairs"
    ):
        pairs(base_grid(steps), rows)
