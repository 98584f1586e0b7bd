"""Test the parts of a cascade one by one, and its functions under a jit of the caller."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P
from PIL import Image

from cv3jax.distributed.mesh import make_mesh

WHOLE = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)


def test_the_parts_draw_what_the_cascade_draws(pipe):
    drawn, text = pipe("a red star", seed=3), pipe.text("a red star")
    latents = pipe.base(text, seed=3)
    assert np.allclose(latents, drawn.latents["base"], atol=1e-4)
    (image,) = pipe.decode(drawn.latents["base"])
    assert np.array_equal(image, drawn.stages["base"][0])
    (large,) = pipe.relay(text, drawn.stages["base"], seed=3)
    # the cascade draws the relay's noise from the same key
    assert np.array_equal(large, drawn[0])


def test_pictures_of_all_kinds_are_encoded_alike(pipe):
    latents = pipe.encode(WHOLE, seed=1)
    assert latents.shape == (2, 4, 4, 4)
    pictures = [Image.fromarray(one) for one in WHOLE]
    assert np.array_equal(pipe.encode(pictures, seed=[1, 2]), latents)
    assert np.array_equal(pipe.encode(WHOLE.astype(np.float32) / 127.5 - 1, seed=1), latents)
    assert not np.array_equal(pipe.encode(WHOLE, seed=2), latents)


@pytest.mark.parametrize(
    ("call", "line"),
    [
        (lambda p: p.encode(WHOLE[:, :30]), "images of 30×32: give multiples of 8 pixels"),
        (lambda p: p.encode(WHOLE, seed=-1), "seed -1: give"),
        (lambda p: p.decode(np.zeros((4, 4, 4))), r"latents of the shape \[4, 4, 4\]: give"),
        (lambda p: p.decode(np.zeros((1, 4, 4, 3))), r"latents of the shape \[1, 4, 4, 3\]: give"),
        (
            lambda p: p.decode([[0.0, 1.0], [2.0]]),
            r"latents of several shapes: give \[B, h, w, 4\]",
        ),
        (lambda p: p.encode([WHOLE[0], WHOLE[0, :8]]), "images of several shapes: give PIL"),
        (lambda p: p.base(p.text("a")[:0]), r"text of the shape \[0, \d+, 24\]: give the features"),
        (lambda p: p.base("a star"), r"text of <class 'str'>: give the features \[B, L, 24\]"),
        (lambda p: p.base(p.text("a"), size=36), "size 36×36: height and width must be multiples"),
        (lambda p: p.base(p.text("a"), size=0), "size 0: give"),
        (lambda p: p.base(p.text("a"), steps=3), "3 steps for the base stage"),
        (lambda p: p.relay(p.text("a"), WHOLE), "1 texts for 2 images"),
        (lambda p: p.relay(p.text(["a", "b"]), WHOLE[:, :30]), "a picture of 30×32: the relay"),
        (lambda p: p.text(None), "prompt None: give a string"),
        (lambda p: p.upscale(WHOLE[0], ["a"]), "prompt .*: give one string"),
        (lambda p: p.upscale(WHOLE[0], "a", factor=3), "factor 3: give one of 2, 4, 8, 16"),
        (lambda p: p.upscale(WHOLE[0], "a", factor=2.0), r"factor 2\.0: give 2, 4, 8 or 16"),
        (lambda p: p.upscale(WHOLE[0], "a", strength="1"), "strength '1': give a number"),
        (lambda p: p.upscale(WHOLE[0], "a", strength=0), r"strength 0\.0: give a value above 0"),
        (lambda p: p.upscale(WHOLE[0], "a", colour_fix="no"), "colour fix 'no': give one of"),
        (lambda p: p.upscale("a.png", "a"), "an image of type str: give a PIL image"),
        (lambda p: p.upscale(WHOLE / 255, "a"), "an image of float64"),
        (lambda p: p.upscale(WHOLE[0], "a", tile=40, factor=4), "tile 40: give"),
        (lambda p: p.functions().sampler("t5"), "stage 't5': give one of base, relay"),
        (lambda p: p.functions().sampler("base", steps=9), "9 steps for the base stage"),
    ],
)
def test_what_a_part_cannot_take_is_said_in_one_line(pipe, call, line):
    with pytest.raises(ValueError, match=f"^{line}") as raised:
        call(pipe)
    assert "\n" not in str(raised.value)


def test_upscale_enlarges_any_picture(pipe):
    image = Image.fromarray(WHOLE[0]).convert("RGBA").resize((21, 30))  # odd, and not square
    seen = []
    enlarged = pipe.upscale(image, "a red star", callback=seen.append)
    assert (enlarged.image.size, enlarged.image.mode) == ((42, 60), "RGBA")
    assert enlarged.drift["result"] < enlarged.drift["relay"]
    assert [(step.stage, step.number, step.count) for step in seen] == [("relay", 1, 1)]
    again = pipe.upscale(image, "a red star")
    assert np.array_equal(again.image, enlarged.image)
    assert not np.array_equal(pipe.upscale(image, "a red star", seed=1).image, again.image)


def drawing(pipe):
    """Return a function (params, tokens, noise, keys) → pictures, made of the pure functions."""
    functions = pipe.functions()
    sample = functions.sampler("base", steps=4, guidance=5.0)

    def draw(params, tokens, noise, keys):
        text = functions.text(params["t5"], tokens)
        w = jnp.float32(5.0)
        latents = sample(params["base"], text, None, noise, keys, w)
        back = functions.encode(
            params["vae"], jnp.zeros((len(tokens), 32, 32, 3)), jnp.zeros_like(noise)
        )
        return functions.decode(params["vae"], latents), latents, back

    return draw


def test_functions_are_parts_of_the_caller_s_program_and_mesh(pipe):
    prompts = ["a red star", "a blue circle"]
    keys = jax.vmap(jax.random.key)(np.arange(2, dtype=np.uint32))
    noise = jax.random.normal(jax.random.key(5), (2, 4, 4, 4))
    given = (pipe.tokens(prompts), noise, keys)
    images, latents, back = jax.jit(drawing(pipe))(pipe.params, *given)
    assert (images.shape, images.dtype) == ((2, 32, 32, 3), np.uint8)
    told = pipe.functions().sampler("base", guidance=5.0)
    alone = told(pipe.params["base"], pipe.text(prompts), None, noise, keys, np.float32(5.0))
    assert np.allclose(latents, alone, atol=1e-3)
    assert back.shape == (2, 4, 4, 4)

    mesh = make_mesh(data=2, devices=jax.devices()[:2])
    rows = NamedSharding(mesh, P("data"))
    params = jax.device_put(pipe.params, NamedSharding(mesh, P()))
    spread = jax.jit(drawing(pipe), out_shardings=rows)(params, *jax.device_put(given, rows))
    assert spread[1].sharding.is_equivalent_to(rows, 4)
    assert np.allclose(spread[1], latents, atol=1e-3)
