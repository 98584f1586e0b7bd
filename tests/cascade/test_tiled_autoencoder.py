"""The autoencoder in tiles gives what the whole picture at once does, at any size and tile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_autoencoders import random_params

from cv3jax.cascade import vae_passes
from cv3jax.cascade.coders import decoder, encoder
from cv3jax.cascade.tiled_coders import decode_tiled, encode_tiled
from cv3jax.cascade.vae_passes import Grid
from cv3jax.cascade.vae_tile import not_yet_counted
from cv3jax.distributed.mesh import make_mesh
from cv3jax.models.vae import Autoencoder
from data_pipeline.io.errors import InputError

MODELS = {
    "two stages": Autoencoder(8, (1, 2), 1, groups=4),
    "three stages": Autoencoder(8, (1, 2, 2), 1, groups=4),
    "no norms, no attention": Autoencoder(8, (1, 2), 1, patch=2, groups=0, mid_attention=False),
    "patches alone": Autoencoder(8, (1,), 1, patch=4, groups=4),
    "bfloat16": Autoencoder(8, (1, 2), 1, groups=4, dtype=jnp.bfloat16),
}
EXACT, ROUNDED = 1e-4, 0.1  # largest differences, of values of about one


@pytest.fixture(scope="module", autouse=True)
def _few_logits():
    """Compute the attention of small pictures in chunks, the last of which overlaps another."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vae_passes, "LOGITS", 100)
        yield


def both(kind: str, name: str, size: tuple[int, int], tile: int, keep: int | None):
    """Return what the whole and the tiles make of two pictures.

    size, tile: in latents.
    """
    # a decoder has one block more in each stage
    vae = MODELS[name].clone(res_blocks=int(kind == "encode"))
    params, f = random_params(vae), vae.factor
    tiled = {"decode": decode_tiled, "encode": encode_tiled}[kind]
    sides = size if kind == "decode" else tuple(side * f for side in size)
    channels = vae.z_channels if kind == "decode" else 3
    x = jax.random.normal(jax.random.key(1), (2, *sides, channels))
    whole = jax.jit(lambda p, x: vae.apply({"params": p}, x, method=kind))(params, x)
    return whole, jax.jit(lambda p, x: tiled(vae, p, x, tile * f, keep=keep))(params, x)


@settings(max_examples=4, derandomize=True, deadline=None)
@given(
    kind=st.sampled_from(("decode", "encode")),
    name=st.sampled_from(sorted(MODELS)),
    size=st.tuples(st.integers(1, 7), st.integers(2, 7)),
    tile=st.integers(1, 4),
    keep=st.sampled_from((None, 0)),
)
@example(kind="decode", name="three stages", size=(5, 3), tile=2, keep=None)
@example(kind="encode", name="three stages", size=(3, 5), tile=2, keep=0)
def test_tiles_give_what_the_whole_does(kind, name, size, tile, keep):
    whole, tiles = both(kind, name, size, tile, keep)
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(tiles), strict=True):
        assert a.dtype == b.dtype == jnp.float32
        assert np.abs(a).max() > 0.3
        np.testing.assert_allclose(b, a, rtol=0, atol=ROUNDED if name == "bfloat16" else EXACT)


def test_one_tile_over_the_picture_is_the_whole_to_the_bit():
    whole, tiles = both("decode", "two stages", (3, 2), 3, None)
    np.testing.assert_array_equal(tiles, whole)


@given(
    picture=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    tile=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    scale=st.sampled_from((1, 2)),
)
@settings(max_examples=20, derandomize=True, deadline=None)
def test_each_position_is_counted_once(picture, tile, scale):
    grid = Grid(picture, tuple(map(min, picture, tile)))
    counts = np.zeros([side * scale for side in picture], int)
    for index in range(grid.shape[0] * grid.shape[1]):
        place = grid.place(index)
        core = grid.core(scale)
        y, x = (int(at) * scale for at in place.corner)
        mask = np.asarray(not_yet_counted(place, core))[..., 0]
        counts[y : y + core.size[0], x : x + core.size[1]] += mask
    assert (counts == 1).all()


def test_the_coders_take_a_tile_and_a_mesh():
    vae = MODELS["two stages"].clone(res_blocks=0)
    params, scale = random_params(vae), 0.7
    mesh = make_mesh(data=2, context=2, devices=jax.devices()[:4])
    latents, noise = (jax.random.normal(jax.random.key(i), (2, 4, 6, 4)) for i in range(2))
    pixels = jax.random.uniform(jax.random.key(2), (2, 8, 12, 3), minval=-1)
    whole = decoder(vae, scale, None)(params, latents)
    tiles = decoder(vae, scale, mesh, 4)(params, latents)
    assert tiles.dtype == whole.dtype == jnp.uint8
    assert len(np.unique(whole)) > 100
    # a value at the edge of two may be rounded to either
    assert np.abs(tiles.astype(int) - whole.astype(int)).max() <= 1
    whole = encoder(vae, scale, None)(params, pixels, noise)
    tiles = encoder(vae, scale, None, 4)(params, pixels, noise)
    np.testing.assert_allclose(tiles, whole, rtol=0, atol=EXACT)


@pytest.mark.parametrize("tile", [0, -8, 3])
@pytest.mark.parametrize("coder", [encoder, decoder])
def test_a_tile_of_no_whole_latents_is_refused(coder, tile):
    with pytest.raises(InputError, match=f"tile {tile}: .* must be a multiple of 2 pixels"):
        coder(MODELS["two stages"], 1.0, None, tile)


def test_a_picture_of_no_whole_latents_is_refused():
    with pytest.raises(InputError, match="pictures of 6×5: both sides must be multiples of 2"):
        encode_tiled(MODELS["two stages"], {}, jnp.zeros((1, 6, 5, 3)), 2)


def test_memory_grows_with_the_tile(full_compiles):
    vae = Autoencoder(8, (1, 2, 4), 1, groups=4, mid_attention=False)
    params = jax.eval_shape(lambda: random_params(vae))
    latents = jax.ShapeDtypeStruct((1, 128, 128, 4), jnp.float32)

    def planned(tile: int | None) -> int:
        lowered = decoder(vae, 1.0, None, tile).lower(params, latents)
        return lowered.compile().memory_analysis().temp_size_in_bytes

    whole, small, large = map(planned, (None, 64, 256))
    at_half_resolution = 4 * 16 * 256**2
    assert small < 0.25 * whole
    assert small < 2.5 * at_half_resolution  # two maps and some tiles
    assert small < large < whole
