"""Test that a stage trained without signal at its end is described and sampled so, or refused."""

import dataclasses

import described
import hollow_networks as hn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax import recipes
from cv3jax.cascade import stage_network
from cv3jax.cascade.stage_sampler import make_stage_sampler, stage_grid
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.diffusion import sampler
from cv3jax.diffusion.denoiser import Rescale, guided, make_denoiser
from cv3jax.diffusion.schedule import NO_SIGNAL, T, base_grid, ddpm_sigma
from cv3jax.distillation.parsing import parse_distillation
from cv3jax.distillation.teachers import check_teacher
from cv3jax.models.unet import UNet
from cv3jax.serving.engine import rows
from cv3jax.training.frozen import describe
from cv3jax.training.parsing import parse_stage
from cv3jax.training.state import state_creator
from cv3jax.weights.diffusers_pipeline import _scheduler_config
from data_pipeline.io.errors import InputError

ZERO = ("schedule.zero_snr=True", "objective.prediction=v", "objective.weighting=v")


def load(name: str, *fields: str):
    return recipes.load(f"{name}:tiny", [f"--config.{field}" for field in fields])


@pytest.mark.parametrize(
    ("recipe", "field", "said"),
    [
        (
            "scenes_base",
            "objective.prediction=eps",
            "config.objective.prediction = eps: must be v with schedule.zero_snr: where all is"
            " noise, eps says nothing of the picture",
        ),
        (
            "scenes_base",
            "objective.weighting=min_snr",
            "config.objective.weighting = min_snr: must be v or truncated with schedule.zero_snr:"
            " the others are 0 without signal",
        ),
        (
            "scenes_relay",
            "schedule.blur=linear",
            "config.schedule.zero_snr = True: must be False for a relay, which starts from a"
            " picture and not from noise alone",
        ),
    ],
)
def test_it_is_refused_where_it_means_nothing(recipe, field, said):
    with pytest.raises(InputError) as e:
        parse_stage(load(recipe, *ZERO, field))
    assert str(e.value) == said


@pytest.mark.parametrize("weighting", ["v", "truncated"])
def test_a_stage_trains_and_is_described_so(weighting):
    fields = (*ZERO, f"objective.weighting={weighting}", "sample.guidance_rescale=0.7")
    settings = hn.settings("scenes_base", *fields)
    schedule = hn.programs(settings).network.schedule
    np.testing.assert_array_equal(schedule.sigma, ddpm_sigma(True))
    both = CascadeDescription(
        dataclasses.replace(hn.VAE, model={**hn.VAE.model, "groups": 4}), hn.TEXT
    )
    stage = describe(settings, both)
    assert (stage.zero_snr, stage.guidance_rescale) == (True, 0.7)
    written = both.with_stage("base", stage).to_json()
    assert CascadeDescription.from_json(written, "x").stages["base"] == stage
    plain = describe(hn.settings("scenes_base"), both)
    assert not {"zero_snr", "guidance_rescale"} & plain.to_json().keys()


def test_the_same_step_has_noise_alone_at_the_end():
    """Of 512 images some are at T, where the network is shown noise that no x0 is in."""
    fields = (*ZERO, "objective.timesteps=logit_normal", "objective.timestep_mean=8.0")
    settings = hn.settings("scenes_base", *fields)
    steps = hn.programs(settings)
    state = state_creator(steps.init, steps.tx, 0, steps.like, None)()
    hn.forget()
    steps.train(state, {}, hn.encoded())
    seen = hn.by_row(hn.seen("unet"))
    last = seen["index"] == T - 1
    assert last.sum() > 100
    assert 0.95 < seen["x"][last].std() < 1.05
    assert np.isfinite(seen["x"]).all()


MODEL = {"channels": 16, "channel_mult": (1,), "res_blocks": 1, "depth": (1,), "groups": 8}
MODEL |= {"mid_depth": 1, "head_dim": 16}


def test_it_is_sampled_from_its_own_noise_with_its_own_rescaling():
    fields = {"zero_snr": True, "guidance_rescale": 0.6, "model": MODEL, "text_width": 8}
    stage, rng = described.stage(**fields), np.random.default_rng(0)
    model = UNet(**MODEL)
    text, noise = (
        jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 3, 8), (2, 4, 4, 4))
    )
    cond = {"text": text, "vector": jnp.zeros((2, 1536))}
    params = model.init(jax.random.key(0), noise, jnp.zeros(2, jnp.int32), cond)["params"]
    # a fresh network ends, and its transformers end, in zeros
    params = jax.tree.map(lambda x: x + 0.1 * rng.normal(size=x.shape).astype(np.float32), params)
    keys, w = jax.random.split(jax.random.key(1), 2), jnp.float32(6.0)
    options = stage_network.SamplerOptions(2, text_kv_cache=False)
    drawn = make_stage_sampler(stage, options)(params, text, None, noise, keys, w)
    sigma = jnp.asarray(ddpm_sigma(True))
    plain = make_denoiser(lambda p, *args: model.apply({"params": p}, *args), sigma, "v")
    denoise = guided(plain, w, Rescale(0.6, sigma, "v"))
    cond["vector"] = stage_network.make_cond(text, stage_network.picture_sizes(2, 32, 32))["vector"]
    grid = base_grid(2, zero_snr=True)
    expected, _ = sampler.sample(
        lambda x, t: denoise(params, x, t, cond), grid, sampler.start(grid, noise)
    )
    assert np.isfinite(drawn).all()
    np.testing.assert_allclose(drawn, expected, rtol=1e-3, atol=1e-4)
    other = dataclasses.replace(stage, guidance_rescale=0.0)
    flat = make_stage_sampler(other, options)(params, text, None, noise, keys, w)
    assert np.abs(flat - drawn).max() > 1e-2


def test_grids_are_of_the_stage_s_noise_in_servers_too():
    zero, plain = described.stage(zero_snr=True), described.stage()
    assert float(stage_grid(zero, 4).sigma[0]) == NO_SIGNAL
    assert float(stage_grid(plain, 4).sigma[0]) < 15
    (_, ours), (_, theirs) = (rows.table(rows.stage_key(one), 4, 1.0) for one in (zero, plain))
    assert ours[0, 0] == NO_SIGNAL
    assert theirs[0, 0] < 15


@pytest.mark.parametrize("field", ["schedule.zero_snr=True", "sample.guidance_rescale=0.5"])
def test_a_distillation_has_neither(field):
    name = field.partition("=")[0]
    with pytest.raises(InputError, match=rf"config\.{name} = .*: must be (False|0)$"):
        parse_distillation(load("scenes_distill_base", field))


@pytest.mark.parametrize("change", [{"zero_snr": True}, {"guidance_rescale": 0.7}])
def test_such_a_stage_neither_teaches_nor_becomes_a_pipeline_of_diffusers(change):
    settings = parse_distillation(load("scenes_distill_base"))
    (name,) = change
    with pytest.raises(InputError, match=f"^HERE has {name}, with which no stage is distilled"):
        check_teacher(settings, described.stage(**change), "HERE")
    with pytest.raises(InputError, match=f"^the base has {name}, which the pipeline for diffusers"):
        _scheduler_config(described.stage(**change), "base")
