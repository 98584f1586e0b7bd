"""Test plots of distillation: the position and the label of each point."""

import pytest
from matplotlib.figure import Figure

from cv3jax.reports.plots import Timed, draw_quality, draw_times

ROWS = [
    {"steps": 8, "round": None, "distance": {"1": 0.04, "3": 0.06, "all": 0.05}},
    {"steps": 4, "round": None, "distance": {"1": 0.1, "3": 0.2, "all": 0.15}},
    {"steps": 8, "round": 1, "distance": {"1": 0.05, "3": 0.09, "all": 0.07}},
    {"steps": 1, "round": 2, "distance": {"1": 0.07, "3": 0.09, "all": 0.08}},
]


@pytest.fixture
def axes():
    return Figure().subplots()


def points(axes, label):
    (line,) = [line for line in axes.lines if line.get_label() == label]
    return list(zip(*(map(float, values) for values in line.get_data()), strict=True))


def test_a_guided_step_takes_two_passes_and_a_distilled_one_takes_one(axes):
    draw_quality(axes, ROWS, 20)
    assert points(axes, "undistilled, guided") == [(16, 0.05), (8, 0.15)]
    assert points(axes, "distilled") == [(8, 0.07), (1, 0.08)]
    faint = {
        (float(x), float(y))
        for line in axes.lines
        if line.get_alpha()
        for x, y in zip(*line.get_data(), strict=True)
    }
    expected = {(16, 0.04), (16, 0.06), (8, 0.1), (8, 0.2), (8, 0.05), (8, 0.09), (1, 0.07)}
    assert faint == {*expected, (1, 0.09)}
    assert [text.get_text() for text in axes.texts] == ["8 steps", "4 steps", "8 steps", "1 step"]
    assert [text.get_text() for text in axes.get_xticklabels()] == ["1", "8", "16"]


def test_a_round_without_an_undistilled_stage_is_drawn_alone(axes):
    draw_quality(axes, ROWS[2:], 8)
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["distilled"]


def test_samplers_stand_at_their_time_and_distance(axes):
    draw_times(axes, [Timed("20", False, 148.0, 0.0), Timed("4", True, 13.5, 0.016)])
    assert points(axes, "undistilled") == [(148.0, 0.0)]
    assert points(axes, "distilled") == [(13.5, 0.016)]
    assert {text.get_text(): (text.xy, text.get_ha()) for text in axes.texts} == {
        "20": ((148.0, 0.0), "right"),  # or it would leave the plot
        "4": ((13.5, 0.016), "left"),
    }
