"""The keys and values of a text that all steps of a sampler share, and rows that have none."""

import dataclasses

import described
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from noised import noised, normal
from small_stages import FIELDS

from cv3jax.aot.collectives import collectives
from cv3jax.aot.hlo import Module
from cv3jax.cascade.parts import build_on, unet_init
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.stage_network import SamplerOptions
from cv3jax.cascade.stage_sampler import images_sharding, make_stage_sampler
from cv3jax.checkpoints import cascades
from cv3jax.commands import sample
from cv3jax.distributed.mesh import batch_sharding, make_mesh
from cv3jax.distributed.partitioning import tree_sharding
from cv3jax.models.transformer import (
    Attention,
    TransformerBlock,
    interleave,
    project_kv,
    take_turns,
)
from cv3jax.models.unet import UNet
from cv3jax.sampling import few

ROWS, TEXT = 8, (8, 16)


def test_rows_in_turns():
    a, b = normal(0, 3, 2), normal(1, 3, 2)
    both = interleave(a, b)
    np.testing.assert_array_equal(both, [a[0], b[0], a[1], b[1], a[2], b[2]])
    for ours, theirs in zip(take_turns(both), (a, b), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_over_a_text_of_zeros_is_the_output_s_bias(dtype):
    x, zeros = normal(0, 2, 6, 32), jnp.zeros((2, *TEXT))
    module = Attention(16, dtype=jnp.dtype(dtype))
    params = noised(module.init(jax.random.key(0), x, zeros))
    bias = params["params"]["out"]["bias"].astype(dtype)
    out = module.apply(params, x, zeros)
    np.testing.assert_array_equal(out, jnp.broadcast_to(bias, out.shape))


def test_a_block_computes_nothing_for_rows_without_text():
    """With text for the odd rows alone, the even rows are as those of a text of zeros."""
    x, text = normal(0, 6, 4, 32), normal(1, 3, *TEXT)
    seen = []

    def attend(q, k, v):
        seen.append((len(q), len(k)))
        return jax.nn.dot_product_attention(q, k, v)

    block = TransformerBlock(16, attend=attend)
    params = noised(block.init(jax.random.key(0), x, jnp.zeros((6, *TEXT))))
    cross = params["params"]["cross_attention"]
    kv = project_kv(text, (cross["k"]["kernel"], cross["v"]["kernel"]), 16, jnp.float32)
    seen.clear()
    ours = block.apply(params, x, kv)
    assert seen == [(6, 6), (3, 3)]
    theirs = block.apply(params, x, interleave(jnp.zeros_like(text), text))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert np.abs(ours - block.apply(params, x, interleave(text, text))).max() > 0.01


def arguments(stage, mesh=None):
    """(params, text, low, noise, keys, w) of ROWS images, each with a weight of its own."""
    params = noised(
        jax.jit(unet_init(build_on(None, UNet, stage.model), TEXT[1]))(jax.random.key(0))
    )
    text, noise, low = normal(1, ROWS, *TEXT), normal(2, ROWS, 8, 8, 4), normal(3, ROWS, 8, 8, 4)
    keys, w = jax.random.split(jax.random.key(1), ROWS), jnp.linspace(1.0, 8.0, ROWS)
    if mesh is not None:
        params = jax.device_put(params, tree_sharding(params, mesh))
        text, keys, w = jax.device_put((text, keys, w), batch_sharding(mesh))
        low, noise = jax.device_put((low, noise), images_sharding(mesh))
    return params, text, low if stage.kind == "relay" else None, noise, keys, w


def sampled(stage, options, mesh=None):
    options = dataclasses.replace(options, mesh=mesh)
    return np.asarray(make_stage_sampler(stage, options)(*arguments(stage, mesh)))


def close(ours, theirs):
    return np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


CASES = {
    "base": ("base", 0, SamplerOptions(2, eta=0.5)),
    "relay": ("relay", 0, SamplerOptions(2, form="paper")),
    "distilled": ("base", 16, SamplerOptions(2)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_latents_are_those_of_the_text_itself(case):
    kind, w_dim, options = CASES[case]
    stage = described.stage(kind, model={**FIELDS, "w_dim": w_dim})
    ours = sampled(stage, options)
    assert np.abs(ours).max() > 0.1
    assert close(ours, sampled(stage, dataclasses.replace(options, text_kv_cache=False)))


@pytest.mark.parametrize("axes", [{"data": 2, "fsdp": 2, "tensor": 2}, {"data": 4, "context": 2}])
def test_eight_devices_draw_what_one_draws(axes):
    stage, options = described.stage("base", model=FIELDS), SamplerOptions(2)
    assert close(sampled(stage, options, make_mesh(**axes)), sampled(stage, options))


@pytest.mark.parametrize("cached", [True, False])
def test_no_row_of_a_guided_step_leaves_its_device(cached):
    """A concatenation of rows with and without text would exchange half of them, twice a step."""
    mesh, stage = make_mesh(data=8), described.stage("base", model=FIELDS)
    run = make_stage_sampler(stage, SamplerOptions(2, text_kv_cache=cached, mesh=mesh))
    compiled = run.lower(*arguments(stage, mesh)).compile()
    assert collectives(Module(compiled.as_text())) == []


@pytest.mark.parametrize("flags", [[], ["--no-text-kv-cache"]])
def test_a_flag_switches_it_off(flags, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        few, "sample_few", lambda _, request, *__, **___: asked.append(request) or {}
    )
    sample.main(["--checkpoint", "scenes", "--prompt", "a", "--out", str(tmp_path / "o"), *flags])
    for settings in (asked[0].base, asked[0].relay):
        assert settings.text_kv_cache == (not flags)


def test_without_it_a_stage_reads_the_text_itself():
    _, description = cascades.read_cascade(cascades.PACKAGED / "scenes")
    cascade = Cascade(description, {}, None)
    (cached, _), (plain, _) = (
        cascade.sampler("base", SamplerSettings(text_kv_cache=which)) for which in (True, False)
    )
    assert plain.read_text({}, "text") == "text"
    assert cached.read_text is not plain.read_text
