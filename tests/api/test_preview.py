"""Test the linear preview of latents: its fit, its place in cascade.json, and how it looks."""

import json

import numpy as np
import pytest
import tiny_runs

import cv3jax
from cv3jax.cascade import preview
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from data_pipeline.io.errors import InputError


def test_a_linear_autoencoder_is_inverted():
    mixing = np.random.default_rng(0).normal(size=(3, 4))

    def encode(pixels):
        means = pixels.reshape(len(pixels), 16, 8, 16, 8, 3).mean((2, 4))
        return means @ mixing + 0.5

    matrix = preview.fit(encode, 8)
    assert matrix.shape == (5, 3)
    pixels = preview.colours(2, 128, seed=3)
    shown = preview.shown(encode(pixels), matrix)
    wanted = (pixels.reshape(2, 16, 8, 16, 8, 3).mean((2, 4)) + 1) / 2 * 255
    assert np.abs(shown - wanted).max() < 1.01


def test_latents_that_are_not_finite_have_no_preview():
    pixels = preview.colours(1, 16)
    assert preview.described(pixels, np.full((1, 2, 2, 4), np.nan)) is None
    assert len(preview.described(pixels, np.ones((1, 2, 2, 4)))) == 5


def test_previews_resemble_the_pictures():
    """The packaged cascade's autoencoder is trained; a smaller one shows no pictures."""
    pipe, seen = cv3jax.Cascade.load("scenes"), []
    prompt = "a large green star, white background"
    pipe(prompt, seed=[0, 1], num=2, size=64, callback=lambda step: seen.append(step))
    step = seen[-1]
    for small, large in zip(step.preview(), step.decode(), strict=True):
        exact = np.asarray(large.resize(small.size, 4), float)  # means of boxes
        assert np.corrcoef(np.asarray(small, float).ravel(), exact.ravel())[0, 1] > 0.75


def test_training_an_autoencoder_stores_its_preview():
    place = tiny_runs.trained("vae").workdir / "cascade"
    _, description = cascades.read_cascade(place)
    matrix = description.vae.preview
    assert np.shape(matrix) == (description.vae.model["z_channels"] + 1, 3)
    # later stages carry it
    _, later = cascades.read_cascade(tiny_runs.trained("base").workdir / "cascade")
    assert later.vae.preview == matrix


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0] * 3] * 4,  # of three channels, not of four
        [[0.0] * 4] * 5,
        [[0.0, 0.0, float("nan")]] * 5,
        [[0.0, 0.0, True]] * 5,
        [[0.0, 0.0, "1"]] * 5,
        "matrix",
        [1.0] * 5,
        [],
    ],
)
def test_a_preview_of_another_shape_is_damage(pipe, matrix):
    value = json.loads(json.dumps(pipe.description.to_json()))
    assert CascadeDescription.from_json(value, "here") == pipe.description
    value["vae"]["preview"] = matrix
    with pytest.raises(InputError, match=r"^here is damaged: preview of vae "):
        CascadeDescription.from_json(value, "here")


def test_a_description_without_a_preview_is_written_as_it_was_read(pipe):
    value = pipe.description.to_json()
    del value["vae"]["preview"]
    assert CascadeDescription.from_json(value, "here").to_json() == value
