"""Test that the PyTorch code in a folder for diffusers computes what ours does."""

import dataclasses
import importlib.util
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from released_files import RELATIVE, relative

from cv3jax import recipes
from cv3jax.cascade.parts import build_model, vae_init
from cv3jax.cascade.stage_sampler import stage_grid
from cv3jax.checkpoints import cascades
from cv3jax.diffusion import sampler
from cv3jax.diffusion.denoiser import make_denoiser
from cv3jax.diffusion.pixels import to_pixels, up2
from cv3jax.diffusion.schedule import base_grid, ddpm_sigma, relay_grid
from cv3jax.models.embeddings import guidance_embedding
from cv3jax.models.vae import Autoencoder
from cv3jax.weights.diffusers import patch_vae_config
from cv3jax.weights.diffusers_pipeline import CODE, PREDICTIONS
from cv3jax.weights.mapping import to_torch
from cv3jax.weights.names import vae_entries

SHAPE = (2, 4, 4, 3)


def code(name: str):
    """Import a file of the folder from its path, as diffusers does."""
    pytest.importorskip("torch")
    pytest.importorskip("diffusers")
    spec = importlib.util.spec_from_file_location(f"folder_{name}", CODE / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def nchw(value):
    import torch

    return torch.from_numpy(np.array(value, np.float32).transpose(0, 3, 1, 2))


def nhwc(value) -> np.ndarray:
    return value.numpy().transpose(0, 2, 3, 1)


def network(x, index):
    """Stand for a UNet, in either library, that depends on the latent and on the time."""
    return 0.3 * x + (index + 1) / 1000.0


KINDS = [
    ("none", "released"),
    *itertools.product(("linear", "sigma", "exp"), ("released", "paper")),
]


@pytest.mark.parametrize("eta", [0.0, 0.7])
@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize(("blur", "form"), KINDS)
def test_the_scheduler_samples_as_ours(blur, form, prediction, eta):
    """Every blur, form and prediction, from the start to the end of the grid."""
    steps, start = 5, 1000 if blur == "none" else 200
    grid = base_grid(steps) if blur == "none" else relay_grid(steps, start, blur)
    keys = jax.random.split(jax.random.key(0), 2)
    noise, low = np.random.default_rng(0).standard_normal((2, *SHAPE), np.float32)
    low = None if blur == "none" else low
    denoise = make_denoiser(
        lambda p, x, i, c: network(x, i[0]), jnp.asarray(ddpm_sigma()), prediction
    )
    ours = sampler.sample(
        lambda x, t: denoise(None, x, t, None),
        grid,
        sampler.start(grid, noise, low),
        low,
        keys=keys,
        eta=eta,
        form=form,
    )[0]
    scheduler = code("relay_scheduler").RelayScheduler(
        start=start, blur=blur, form=form, prediction_type=PREDICTIONS[prediction]
    )
    scheduler.set_timesteps(steps)
    given = None if low is None else nchw(low)
    x = scheduler.begin(nchw(noise), given)
    for i, index in enumerate(scheduler.timesteps):
        added = jax.vmap(lambda key, i=i: jax.random.normal(jax.random.fold_in(key, i), SHAPE[1:]))
        made = network(scheduler.scale_model_input(x, i), int(index))
        x = scheduler.step(made, i, x, given, eta, nchw(added(keys)) if eta else None).prev_sample
    np.testing.assert_allclose(nhwc(x), ours, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("strength", [1.0, 0.999, 0.35, 0.01])
@pytest.mark.parametrize("blur", ["linear", "sigma", "exp"])
@pytest.mark.parametrize("steps", [1, 7, 50])
def test_its_grids_are_ours(steps, blur, strength):
    scheduler = code("relay_scheduler").RelayScheduler(start=500, blur=blur)
    scheduler.set_timesteps(steps, strength=strength)
    description = cascades.read_cascade("scenes_teacher")[1].stages["relay"]
    stage = dataclasses.replace(description, start=500, blur=blur)
    grid = stage_grid(stage, steps, strength)
    np.testing.assert_array_equal(scheduler.timesteps.numpy() + 1, grid.t[:-1])
    np.testing.assert_array_equal(scheduler.sigmas.numpy(), grid.sigma)
    np.testing.assert_array_equal(scheduler.blurs.numpy(), grid.blur)


@pytest.mark.parametrize("steps", [0, 501])
def test_steps_without_a_grid_are_refused(steps):
    scheduler = code("relay_scheduler").RelayScheduler(start=500, blur="linear")
    with pytest.raises(ValueError, match=rf"{steps} steps: give 1\.\.500"):
        scheduler.set_timesteps(steps)


def fields_of(name: str) -> dict:
    """Return the packaged model, without norms, or the tiny recipe's, with them and attention."""
    if name == "scenes":
        return cascades.read_cascade("scenes")[1].vae.model
    return {**recipes.load("scenes_vae:tiny", []).model.to_dict(), "mid_attention": True}


@pytest.mark.parametrize("name", ["scenes", "tiny"])
def test_the_autoencoder_computes_what_ours_does(name):
    import torch

    model = build_model(Autoencoder, fields_of(name))
    shapes = jax.eval_shape(vae_init(model), jax.random.key(0))
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0.0, 0.2, x.shape).astype(np.float32), shapes)
    entries = vae_entries(
        channels=model.channels,
        channel_mult=model.channel_mult,
        res_blocks=model.res_blocks,
        norms=model.groups > 0,
        attention=model.mid_attention,
    )
    tensors = {name: torch.from_numpy(value) for name, value in to_torch(params, entries).items()}
    config = patch_vae_config(model, 1.0)
    theirs = code("patch_autoencoder").PatchAutoencoder(
        **{key: value for key, value in config.items() if not key.startswith("_")}
    )
    theirs.load_state_dict(tensors)  # strict: all names, and no other
    pixels = rng.uniform(-1, 1, (2, 32, 48, 3)).astype(np.float32)
    ours, mean, logvar = jax.jit(model.apply)({"params": params}, pixels)
    with torch.no_grad():
        posterior = theirs.encode(nchw(pixels)).latent_dist
        decoded = theirs(nchw(pixels)).sample
    assert relative(mean, nhwc(posterior.mean)) <= RELATIVE
    assert relative(logvar, nhwc(posterior.logvar)) <= RELATIVE
    assert relative(ours, nhwc(decoded)) <= RELATIVE


@pytest.mark.parametrize("dim", [256, 511])
def test_the_embedding_of_w_is_ours(dim):
    import torch

    code("relay_scheduler")
    w = np.array([1.0, 7.5], np.float32)
    theirs = code("sampling").guidance_embedding(torch.from_numpy(w), dim)
    np.testing.assert_allclose(theirs.numpy(), guidance_embedding(w, dim), atol=1e-6)


def test_pictures_are_enlarged_as_ours():
    image = np.random.default_rng(0).integers(0, 256, (1, 6, 4, 3)).astype(np.uint8)
    pictures = code("pictures")
    up = pictures.doubled(pictures.from_pictures(image))
    np.testing.assert_allclose(nhwc(up), up2(to_pixels(image)), atol=1e-6)


@pytest.mark.parametrize("image", [np.zeros((4, 4, 3)), np.zeros((4, 4), np.uint8), []])
def test_what_is_no_picture_is_refused(image):
    with pytest.raises(ValueError, match=r"give PIL images or uint8 arrays \[H, W, 3\]"):
        code("pictures").from_pictures(image)


def test_pictures_of_the_users_are_upright_and_on_white():
    image = Image.new("RGBA", (3, 2), (200, 0, 0, 0))
    image.putpixel((0, 0), (10, 20, 30, 255))
    exif = Image.Exif()
    exif[0x0112] = 6  # turned right by 90°
    image.info["exif"] = exif.tobytes()
    (one,) = code("pictures").from_pictures(image).permute(0, 2, 3, 1).numpy()
    assert one.shape == (3, 2, 3)
    assert one[0, 1].tolist() == [10, 20, 30]
    assert (one.reshape(-1, 3) == 255).all(1).sum() == 5
    with pytest.raises(ValueError, match="mode I;16: give 8 bits a channel"):
        code("pictures").from_pictures(Image.new("I;16", (2, 2)))


def test_control_tokens_in_a_prompt_are_text():
    """The tokens are those of `cv3jax sample`, which reads such names as text."""
    from transformers import PreTrainedTokenizerFast

    from data_pipeline.loading.tokenizer import load_tokenizer

    folder = cascades.place_of(cascades.read_cascade("scenes")[0], "t5/tokenizer")[0]
    prompts = ["a </s> red \uff1cpad\uff1e star", "a blue ring " * 30, "half a pair \udc80"]
    theirs = code("prompts").tokenize(PreTrainedTokenizerFast.from_pretrained(folder), prompts, 48)
    np.testing.assert_array_equal(theirs.numpy(), load_tokenizer(folder, 48)(prompts))
