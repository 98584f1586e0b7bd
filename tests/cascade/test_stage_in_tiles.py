"""Test a stage that predicts in tiles: what its network is told, and what its latents equal."""

import dataclasses
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.cascade import stage_network
from cv3jax.cascade.limits import check_latents, check_trained
from cv3jax.cascade.parts import build_model, unet_init
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.stage_network import SamplerOptions, check_context
from cv3jax.cascade.stage_sampler import images_sharding, make_stage_sampler
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import StageDescription
from cv3jax.diffusion.tiles import place
from cv3jax.distributed.mesh import BATCH, make_mesh
from cv3jax.models.unet import UNet
from data_pipeline.io.errors import InputError

FACTOR, SIDES, TILE = 8, (12, 20), 64  # 96×160 pixels in tiles of 8×8 latent positions
ROWS, WORDS, WIDTH = 2, 3, 4
STAGE = StageDescription(
    kind="relay",
    model={"channel_mult": [1], "out_channels": 2},
    text_width=WIDTH,
    prediction="eps",
    factor=FACTOR,
    image_size=128,
    start=200,
    steps=3,
    guidance=3.0,
    eta=0.0,
    form="released",
    blur="linear",
)
told = []  # the sizes of each call of the network


class Pointwise(UNet):
    """Predict each position from itself, its row's text and its row's guidance weight."""

    @nn.nowrap
    def text_kv(self, params, text):
        return {"only": (text[None, :, :, None, :1],) * 2}

    @nn.compact
    def __call__(self, x, index, cond):
        jax.debug.callback(lambda sizes: told.append(np.asarray(sizes)), cond["vector"])
        text = cond["text"]
        words = text["only"][0][0, :, 0, 0, 0] if isinstance(text, dict) else text[:, 0, 0]
        if len(words) < len(x):  # guided: keys and values are those of every second row
            words = jnp.stack([jnp.zeros_like(words), words], 1).ravel()
        scale = 0.1 * words + (cond["w"].mean(1) if self.w_dim else 0.0)
        return jnp.sin(x) * (1.0 + scale[:, None, None, None])


class Neighbours(Pointwise):
    """Predict from the mean of the whole latent, so that a tile shows."""

    @nn.compact
    def __call__(self, x, index, cond):
        return super().__call__(x, index, cond) + x.mean((1, 2), keepdims=True)


@pytest.fixture
def network(monkeypatch):
    """Put a network in place of the UNet, which is told sizes as numbers of pixels."""
    make_cond = stage_network.make_cond

    def with_numbers(text, sizes, *rest):
        return {**make_cond(text, sizes, *rest), "vector": sizes}

    def use(cls):
        monkeypatch.setattr(stage_network, "UNet", cls)
        told.clear()

    monkeypatch.setattr(stage_network, "make_cond", with_numbers)
    use(Pointwise)
    return use


def draw(options, w=3.0, *, stage=STAGE, sides=SIDES, rows=ROWS, params=None):
    """Return the latents of a stage, with inputs that differ by row."""
    text = jnp.arange(1.0, rows + 1)[:, None, None] * jnp.ones((1, WORDS, WIDTH))
    key, z = jax.random.key(1), stage.model["out_channels"]
    low, noise = jax.random.normal(key, (2, rows, *sides, z))
    keys = jax.vmap(jax.random.key)(jnp.arange(rows))
    w = jnp.asarray(w, jnp.float32)
    if options.mesh is not None:
        low, noise = jax.device_put((low, noise), images_sharding(options.mesh))
        rows_of = jax.NamedSharding(options.mesh, jax.P(BATCH))
        text, keys = jax.device_put((text, keys), rows_of)
    made = make_stage_sampler(stage, options)(params or {}, text, low, noise, keys, w)
    jax.effects_barrier()
    return made


def asked():
    """Return the distinct sizes that the network was told."""
    return {tuple(int(x) for x in row) for sizes in told for row in sizes}


WAYS = {
    "guided": ({}, 3.0),
    "guided by row": ({}, np.array([2.0, 5.0])),
    "unguided": ({"unguided": True}, 1.0),
    "without keys and values": ({"text_kv_cache": False}, 3.0),
    "ancestral": ({"eta": 1.0}, 3.0),
    "paper": ({"form": "paper", "strength": 0.5}, 3.0),
}


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("name", WAYS)
def test_tiles_of_a_network_of_single_positions_are_the_whole(name):
    """Text and guidance of each row reach its tiles."""
    options, w = WAYS[name]
    whole = draw(SamplerOptions(3, **options), w)
    assert not np.allclose(whole[0], whole[1], atol=0.05)
    tiled = draw(SamplerOptions(3, tile=TILE, **options), w)
    np.testing.assert_allclose(tiled, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("network")
@pytest.mark.parametrize("kept", [True, False])
def test_a_network_conditioned_on_guidance_is_told_each_rows_w_in_each_tile(kept):
    stage = dataclasses.replace(STAGE, model={**STAGE.model, "w_dim": 8})
    w = np.array([1.5, 6.0])
    whole = draw(SamplerOptions(3, text_kv_cache=kept), w, stage=stage)
    assert not np.allclose(whole, draw(SamplerOptions(3), w[::-1].copy(), stage=stage), atol=0.05)
    tiled = draw(SamplerOptions(3, tile=TILE, text_kv_cache=kept), w, stage=stage)
    np.testing.assert_allclose(tiled, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("network")
def test_each_tile_is_told_the_pictures_size_its_own_corner_and_its_own_size():
    draw(SamplerOptions(2, tile=TILE))
    placed = place(*SIDES, TILE // FACTOR, TILE // FACTOR // 4)
    assert placed.count == 6
    assert asked() == {
        (96, 160, FACTOR * top, FACTOR * left, TILE, TILE) for top, left in placed.corners.tolist()
    }
    assert len(told) == 2 * placed.count  # of each step


@pytest.mark.usefixtures("network")
def test_a_side_shorter_than_a_tile_is_told_as_it_is():
    draw(SamplerOptions(1, tile=128), sides=(12, 40))
    assert {sizes[-2:] for sizes in asked()} == {(96, 128)}
    assert {sizes[2] for sizes in asked()} == {0}


@pytest.mark.usefixtures("network")
def test_a_whole_picture_is_told_its_true_height_and_width():
    draw(SamplerOptions(1))
    assert asked() == {(96, 160, 0, 0, 96, 160)}


def test_one_tile_that_covers_the_picture_is_untiled_to_the_bit(network):
    network(Neighbours)
    whole = draw(SamplerOptions(3))
    for tile in (160, 256):
        np.testing.assert_array_equal(draw(SamplerOptions(3, tile=tile)), whole)
    assert not np.allclose(draw(SamplerOptions(3, tile=TILE)), whole, atol=1e-3)


@pytest.mark.parametrize("copies", [False, True])
def test_tiles_on_eight_devices_are_those_of_one(copies):
    """The network is a real one, with a text and a guidance weight.

    Where the rows are copies of one picture, each device predicts its share of the tiles.
    """
    model = {"channels": 32, "channel_mult": [1], "res_blocks": 1, "depth": [0], "mid_depth": 1}
    stage = dataclasses.replace(STAGE, model={**model, "head_dim": 16, "out_channels": 2})
    params = unet_init(build_model(UNet, stage.model), WIDTH)(jax.random.key(0))
    spread = jax.tree.map(lambda x: x + 0.05 * jnp.cos(jnp.arange(x.size)).reshape(x.shape), params)
    given = {"stage": stage, "params": spread, "rows": 1 if copies else 4}
    alone = draw(SamplerOptions(2, tile=TILE), **given)
    mesh = make_mesh(data=2, fsdp=2, context=2)
    options = SamplerOptions(2, tile=TILE, mesh=mesh, copies=copies)
    if copies:
        made = copied(options, **given)
        np.testing.assert_array_equal(made[1:], made[:-1])
        made = made[:1]
    else:
        made = draw(options, **given)
    assert np.ptp(alone) > 1
    np.testing.assert_allclose(made, alone, rtol=1e-3, atol=1e-3)


def copied(options, *, stage, params, rows):
    """Return four rows of latents of the first row's picture, on the mesh of `options`."""
    key, z = jax.random.key(1), stage.model["out_channels"]
    low, noise = jax.random.normal(key, (2, rows, *SIDES, z))
    low, noise = (
        jax.device_put(jnp.repeat(x, 4, 0), images_sharding(options.mesh)) for x in (low, noise)
    )
    rows_of = jax.NamedSharding(options.mesh, jax.P(BATCH))
    keys = jax.device_put(jax.vmap(jax.random.key)(jnp.zeros(4, int)), rows_of)
    text = jax.device_put(jnp.ones((4, WORDS, WIDTH)), rows_of)
    return make_stage_sampler(stage, options)(params, text, low, noise, keys, jnp.float32(3.0))


@pytest.mark.usefixtures("network")
def test_copies_ask_the_network_once_for_each_tile_and_step():
    rows, tiles = 4, 6
    same = SamplerOptions(2, tile=TILE, copies=True)
    draw(same, rows=rows)
    assert len(told) == 2 * -(-tiles // rows)
    corners = [tuple(row[2:4]) for sizes in told for row in sizes[1::2]]  # of the rows with text
    assert len(corners) == 2 * 8
    assert len(set(corners)) == tiles


SCENES = cascades.read_cascade("scenes_teacher")[1]


@pytest.mark.parametrize("name", ["base", "relay"])
@pytest.mark.parametrize("tile", [8, 16, 40, 72])
def test_tiles_that_the_network_cannot_halve_are_refused_before_any_work(name, tile):
    with pytest.raises(InputError, match=rf"tile {tile}: give a multiple of 16 pixels, at least"):
        check_trained(SCENES, {name: SamplerSettings(tile=tile)})
    with pytest.raises(InputError, match="give a multiple of 16"):
        stage_network.stage_tiles(SCENES.stages[name], stage_network.Size(64, 64), tile)
    check_trained(SCENES, {name: SamplerSettings(tile=64)})


def test_latents_that_a_stage_cannot_sample_are_refused():
    check_latents(SCENES, "relay", (1, 32, 48, 4), (1, 32, 48, 4))
    with pytest.raises(InputError, match=r"starts from a picture of its own size: .*16, 24, 4"):
        check_latents(SCENES, "relay", (1, 32, 48, 4), (1, 16, 24, 4))
    factor = SCENES.stages["base"].factor
    for sides in itertools.permutations((16, 15)):
        height, width = (factor * side for side in sides)
        with pytest.raises(InputError, match=f"multiples of 16 pixels, not {height}×{width}"):
            check_latents(SCENES, "base", (1, *sides, 4))


def test_a_context_has_to_split_tiles_not_pictures():
    mesh = make_mesh(data=1, context=8)
    check_context(mesh, SCENES, "relay", 64)
    with pytest.raises(InputError, match="context=8: latents of 16 rows"):
        check_context(mesh, SCENES, "relay", 64, 16 * SCENES.stages["relay"].factor)
