"""Test the pictures of the packaged cascades of scenes, and the effect of their distillation.

`benchmarks/packaged.py` measures more pictures.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from cv3jax.cascade.pipeline import load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints import cascades
from cv3jax.commands import sample
from cv3jax.evaluation.scenes import BATCH as COUNT
from cv3jax.evaluation.scenes import draw_captions, judged_scenes, round_trip
from data_pipeline.io.errors import InputError
from data_pipeline.scenes import grammar
from data_pipeline.scenes.judge import judge
from data_pipeline.scenes.render import render

# of those that draw much
sampled = pytest.mark.usefixtures("full_compiles")


@pytest.fixture(scope="module")
def student():
    return load(cascades.PACKAGED / "scenes")


@pytest.fixture(scope="module")
def teacher():
    return load(cascades.PACKAGED / "scenes_teacher")


@pytest.fixture(scope="module")
def noise(teacher):
    """Return captions, keys, and the noise from which both cascades start."""
    captions = [grammar.caption(scene) for scene in judged_scenes(12, 0)]
    keys = jax.vmap(jax.random.key)(jnp.arange(len(captions)))
    return captions, keys, teacher.noise(keys, 64)


def base(cascade, noise, w, steps=None):
    captions, keys, start = noise
    settings = SamplerSettings(steps, w)
    return np.asarray(cascade.stage("base", cascade.text(captions), keys, start, settings=settings))


@pytest.fixture(scope="module")
def full(teacher, noise):
    """Return the teacher's latents after all of its steps, guided by w."""
    return functools.cache(lambda w: base(teacher, noise, w))


def apart(a, b) -> float:
    return float(np.sqrt(np.mean((a - b) ** 2)))


def test_real_pictures_survive_the_autoencoder(student):
    shown = judged_scenes(COUNT, 0)
    for side in (64, 128):
        backs = round_trip(student, np.stack([render(scene, side) for scene in shown]))
        assert (
            np.mean(
                [
                    judge(image, grammar.caption(scene))["all"]
                    for image, scene in zip(backs, shown, strict=True)
                ]
            )
            >= 0.95
        )


@sampled
def test_five_steps_draw_what_held_out_captions_say(student):
    """No training picture combines the colours and shapes.

    The order of the things is only in the words.
    """
    held = judged_scenes(COUNT, 0)
    relational = [
        grammar.sample_scene(1, i, split="heldout", two=1.0, relational=1.0) for i in range(COUNT)
    ]
    captions = [grammar.caption(scene) for scene in held + relational]
    assert all("to the left of" in text or "to the right of" in text for text in captions[COUNT:])
    made = draw_captions(student, captions, 0)["relay"]
    said = [judge(*pair) for pair in zip(made, captions, strict=True)]
    assert np.mean([v["colour"] for v in said]) >= 0.97
    assert np.mean([v["all"] for v in said]) >= 0.9
    assert np.mean([v["position"] for v in said[COUNT:]]) >= 0.9
    swapped = np.roll(made[:COUNT], 1, axis=0)  # and the judge is not one that says yes to anything
    assert np.mean([judge(*pair)["all"] for pair in zip(swapped, captions, strict=False)]) <= 0.1


@sampled
def test_the_student_is_nearer_to_twenty_steps_than_its_teacher_in_four(
    student, teacher, noise, full
):
    for w in (1.0, 2.0):
        assert apart(base(student, noise, w), full(w)) < 0.9 * apart(
            base(teacher, noise, w, steps=4), full(w)
        )


@sampled
def test_the_student_was_taught_guidance(student, noise, full):
    """At each of the first four w the student is nearest to the teacher guided by that w."""
    weights = (1.0, 1.25, 1.5, 1.75, 2.0, 2.5, 3.0)
    theirs = [full(w) for w in weights]
    for i, w in enumerate(weights[:4]):
        assert int(np.argmin([apart(base(student, noise, w), one) for one in theirs])) == i, w


def test_the_command_draws_by_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prompt = "a large red circle to the left of a small blue square, white background"
    sample.main(["--checkpoint", "scenes", "--prompt", prompt, "--out", "out"])
    (file,) = (tmp_path / "out").glob("0*.png")
    assert judge(np.asarray(Image.open(file)), prompt)["all"]


def test_what_it_was_not_taught_is_refused(student, noise):
    with pytest.raises(InputError, match=r"1\.\.3"):
        base(student, noise, 5.0)
    with pytest.raises(InputError, match="distilled to 4"):
        base(student, noise, 2.0, steps=8)
