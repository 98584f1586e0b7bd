"""Test the dtypes in which a cascade's parameters are loaded.

They must not change the pictures.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade import pipeline
from cv3jax.cascade.parts import build_model, load_params
from cv3jax.checkpoints import cascades
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.models.unet import UNet


def test_matrices_are_loaded_in_the_type_that_a_part_computes_in(monkeypatch):
    directory, description = cascades.read_cascade("scenes")
    stage = description.stages["base"]
    stage = dataclasses.replace(stage, model={**stage.model, "dtype": "bfloat16"})
    description = description.with_stage("base", stage)
    monkeypatch.setattr(cascades, "read_cascade", lambda path: (directory, description))
    loaded = pipeline.load("scenes").params
    for part, params in loaded.items():
        for path, value in jax.tree.leaves_with_path(params):
            half = part == "base" and path[-1].key == "kernel"
            assert value.dtype == ("bfloat16" if half else "float32"), (part, path)

    whole = load_params(directory, description, ("base",))[0]["base"]
    model, draws = build_model(UNet, stage.model), np.random.default_rng(0)
    x = jnp.asarray(draws.standard_normal((1, 8, 8, model.out_channels)), jnp.float32)
    text = jnp.asarray(draws.standard_normal((1, 5, stage.text_width)), jnp.float32)
    cond = make_cond(
        text, picture_sizes(1, stage.image_size, stage.image_size), jnp.ones(1), model.w_dim
    )

    @jax.jit
    def predicted(params):
        return model.apply({"params": params}, x, jnp.full(1, 300), cond)

    np.testing.assert_array_equal(predicted(loaded["base"]), predicted(whole))
