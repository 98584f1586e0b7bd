"""Test the program of `compile --step sample` at other sizes, whole and in tiles."""

import jax
import pytest
from compile_figures import fake_figures

from cv3jax import recipes
from cv3jax.aot.programs import Drawn, program
from cv3jax.aot.report import text
from cv3jax.cascade import stage_network
from cv3jax.cascade.sizes import Size
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.kernels.flops import count_jaxpr
from data_pipeline.io.errors import InputError

FIELDS = ("batch.per_device=4", "batch.size=8", "mesh.data=2", "mesh.fsdp=1")


def sampler(pictures, name="relay_1024:tiny", step="sample"):
    settings = parse_recipe(recipes.load(name, [f"--config.{field}" for field in FIELDS]))
    return program(settings, jax.devices()[:2], step, pictures)


def test_a_size_that_is_given_is_one_picture_on_each_device():
    recipe, sized = sampler(None), sampler(Drawn(Size(128, 256)))
    assert recipe.images == 8
    assert sized.images == 2
    for low_or_noise in sized.args[2:4]:
        factor = 128 // low_or_noise.shape[1]
        assert low_or_noise.shape[:3] == (2, 128 // factor, 256 // factor)
        assert low_or_noise.shape[1:] != recipe.args[3].shape[1:]


def test_the_program_predicts_in_tiles_where_they_are_given(monkeypatch):
    placed = []
    place = stage_network.place
    monkeypatch.setattr(
        stage_network, "place", lambda *given: placed.append(given) or place(*given)
    )
    size = Size(128, 256)
    for pictures in (Drawn(size), Drawn(size, 256)):
        made = sampler(pictures)
        made.jitted.trace(*made.args)
        assert placed == []
    made = sampler(Drawn(size, 64))
    made.jitted.trace(*made.args)
    height, width = made.args[3].shape[1:3]
    side = height // 2
    assert set(placed) == {(height, width, side, side // 4)}


def test_the_decoder_decodes_these_pictures_whole_or_in_tiles():
    size, flops = Size(128, 256), {}
    for tile in (0, 64, 256):
        made = sampler(Drawn(size, tile), step="decode")
        latents = made.args[1]
        assert latents.shape[:3] == (2, *size.divided(128 // latents.shape[1]))
        (out,) = jax.tree.leaves(jax.eval_shape(made.jitted, *made.args))
        assert (out.shape, out.dtype) == ((2, 128, 256, 3), "uint8")
        flops[tile] = count_jaxpr(made.jitted.trace(*made.args).jaxpr).total
        assert "vae" not in made.beside
        assert made.beside.keys() >= {"stage", "t5"}
    assert flops[0] == flops[256] < flops[64]  # what is computed twice


@pytest.mark.parametrize("step", ["sample", "decode"])
@pytest.mark.parametrize(
    ("pictures", "line"),
    [
        (Drawn(Size(100, 128)), "--size 100×128: height and width must be multiples of"),
        (Drawn(Size(128, 128), 20), "--tile 20: give a multiple of"),
    ],
)
def test_what_the_network_cannot_halve_is_refused(pictures, line, step):
    with pytest.raises(InputError, match=line):
        sampler(pictures, step=step)


def test_the_report_says_of_what_size_the_pictures_are():
    figures = {"config": "relay_1024", **fake_figures()}
    sized = text({**figures, "size": [4096, 2048], "tile": 1024})
    assert "images of 4096×2048 in tiles of 1024 pixels in 1 microbatch" in sized
    assert " in tiles" not in text(figures)
