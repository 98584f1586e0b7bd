"""Test that an unknown keyword is answered with what it is called here."""

import inspect

import pytest

import cv3jax
from cv3jax.api.keywords import naming_keywords


@naming_keywords
def draw(prompt, *, seed=None, num=1, guidance=1.0, size=None):
    """Draw."""
    return prompt, seed, num, guidance, size


def test_a_known_keyword_passes_and_the_signature_stays():
    assert draw("a star", seed=3) == ("a star", 3, 1, 1.0, None)
    assert list(inspect.signature(draw).parameters) == ["prompt", "seed", "num", "guidance", "size"]


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("guidence", r"did you mean guidance\?"),
        ("guidance_scale", r"did you mean guidance\?"),
        ("num_images", r"did you mean num\?"),
        ("num_images_per_prompt", r"did you mean num\?"),
        ("height", r"did you mean size\?"),
        ("heigth", r"did you mean size\?"),
        ("negative_prompt", "a negative prompt has no effect on these models; leave it out"),
        ("num_inference_steps", "it has prompt, seed, num, guidance, size"),  # it has no steps
        ("zebra", "it has prompt, seed, num, guidance, size"),
    ],
)
def test_another_is_answered_with_the_right_one(name, right):
    with pytest.raises(TypeError, match=f"^unknown argument '{name}': {right}$"):
        draw("a star", **{name: 1})


def test_the_api_s_methods_do_so(pipe):
    with pytest.raises(TypeError, match=r"'atention': did you mean attention\?"):
        cv3jax.Cascade.load("scenes", atention="xla")
    with pytest.raises(TypeError, match=r"'num_inference_steps': did you mean steps\?"):
        pipe("a star", num_inference_steps=4)
    for wrong, right in (("color_fix", "colour_fix"), ("scale", "factor")):
        with pytest.raises(TypeError, match=rf"'{wrong}': did you mean {right}\?"):
            pipe.upscale(None, "a star", **{wrong: 2})
    for method in (pipe.base, pipe.relay, pipe.compile):
        with pytest.raises(TypeError, match=r"'step': did you mean steps\?"):
            method(step=4)
