"""Test that the tiny base recipe trains and samples on a GPU as on the CPU.

`make test-gpu` runs it.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax import recipes
from cv3jax.cascade.parts import build_model, t5_init, vae_init
from cv3jax.cascade.stage_network import SamplerOptions
from cv3jax.cascade.stage_sampler import make_stage_sampler
from cv3jax.checkpoints.description import CascadeDescription, VaeDescription
from cv3jax.diffusion.conditioning import normals
from cv3jax.distributed.backend import jit_once
from cv3jax.distributed.batches import placement
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from cv3jax.training.frozen import describe
from cv3jax.training.parsing import parse_stage
from cv3jax.training.programs import diffusion_programs
from cv3jax.training.stage import mesh_plan
from cv3jax.training.state import state_creator

# two microbatches
FIELDS = ("mesh.data=1", "mesh.fsdp=1", "batch.per_device=4", "optim.kind=adamw", "sample.steps=4")


@functools.cache
def outcome(device, dtype: str, attention: str) -> dict[str, np.ndarray]:
    """Return loss and gradient norm of three steps on random pictures, and sampled latents.

    The EMA samples them.
    """
    fields = (*FIELDS, f"model.dtype={dtype}", f"attention={attention}")
    config = parse_stage(
        recipes.load("scenes_base:tiny", [f"--config.{field}" for field in fields])
    )
    vae = VaeDescription(recipes.to_json(recipes.load("scenes_vae:tiny", []))["model"], 1.0)
    text = config.text.description
    # a GPU's default for float32 is a product of 10 bits
    with jax.default_device(device), jax.default_matmul_precision("highest"):
        plan = mesh_plan(config, [device])
        steps = diffusion_programs(config, plan, vae, text)

        def init(key):  # the zeros that a fresh model ends in would hide most of it
            return jax.tree.map(
                lambda x: x + 0.02 * jnp.sin(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape),
                steps.init(key),
            )

        state = state_creator(init, steps.tx, config.seed, steps.like, None)()
        inits = {
            "vae": vae_init(build_model(Autoencoder, vae.model)),
            "t5": t5_init(build_model(T5Encoder, text.model)),
        }
        frozen = jit_once(
            lambda key: {name: init(key) for name, init in inits.items()}, placement(steps.frozen)
        )(jax.random.key(1))
        rng, highest = (
            np.random.default_rng(0),
            {"image": 256, "sizes": 64, "tokens": config.text.vocab},
        )
        batch = {
            name: rng.integers(highest[name], size=x.shape, dtype=x.dtype)
            for name, x in steps.batch.items()
        }
        batch = jax.device_put(batch, placement(steps.batch))
        curve = []
        for _ in range(3):
            encoded = steps.encode(frozen, batch, state.key, state.step)
            state, metrics = steps.train(state, {}, encoded)
            curve.append([metrics["loss"], metrics["grad_norm"]])
        stage = describe(config, CascadeDescription(vae, text))
        run = make_stage_sampler(stage, SamplerOptions(stage.steps, mesh=plan.mesh))
        keys = jax.vmap(jax.random.key)(jnp.arange(config.batch.size))
        latents = run(
            state.ema,
            encoded["cond"]["text"],
            None,
            normals(keys, encoded["x0"].shape[1:]),
            keys,
            stage.guidance,
        )
        assert latents.devices() == {device}
        return {
            "curve": np.asarray(jax.device_get(curve)),
            "latents": np.asarray(latents, np.float32),
        }


@pytest.mark.gpu
# on a CPU: 0, 0.003
@pytest.mark.parametrize(
    ("dtype", "attention", "within"), [("float32", "xla", 1e-3), ("bfloat16", "cudnn", 0.02)]
)
def test_three_steps_and_a_sampling_are_the_cpu_backend_s(dtype, attention, within):
    ours, exact = (
        outcome(jax.devices("gpu")[0], dtype, attention),
        outcome(jax.devices("cpu")[0], "float32", "xla"),
    )
    np.testing.assert_allclose(ours["curve"], exact["curve"], rtol=within)
    assert (
        np.abs(ours["latents"] - exact["latents"]).max() < within * np.abs(exact["latents"]).max()
    )
