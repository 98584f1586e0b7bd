"""Test training from a converted checkpoint.

Its loss at step 0 is the released training step's, and is lower after ten steps.
"""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_runs
from golden import reads
from golden_models import converted, meta, unet_sizes

from cv3jax import recipes
from cv3jax.cascade import pipeline
from cv3jax.cascade.parts import build_model
from cv3jax.diffusion import losses
from cv3jax.diffusion.conditioning import make_cond
from cv3jax.diffusion.denoiser import make_denoiser
from cv3jax.diffusion.pixels import down2, up2
from cv3jax.diffusion.schedule import ddpm_sigma, make_schedule
from cv3jax.models.unet import UNet
from cv3jax.training import run as training
from cv3jax.training.build import build
from cv3jax.training.metrics import read_lines
from cv3jax.training.parsing import parse_stage
from cv3jax.training.state import make_tx
from cv3jax.training.train_step import make_train_step

START, OFFSET = 500, 0.05


def config(preset: str, *fields: str):
    """Return settings of relay fine-tuning at the preset's sizes, from the converted checkpoint."""
    sizes = unet_sizes(preset) | {
        "head_dim": meta(preset)["preset_config"]["unet"]["num_head_channels"],
        "groups": 32,
    }
    given = [f"model.{name}={value}" for name, value in sizes.items()]
    given += [
        f"cascade={converted(preset)}",
        f"init_from={converted(preset)}",
        f"data.path={tiny_runs.scenes()}",
        "text.random=False",
        "optim.lr=1e-4",
        "optim.warmup=0",
        *fields,
    ]
    return parse_stage(recipes.load("relay_1024:tiny", [f"--config.{field}" for field in given]))


@reads("train.*", presets=("micro",))
def test_step_0_has_the_golden_loss_and_ten_steps_lower_it(g):
    c = config(g.preset)
    loaded = pipeline.load(converted(g.preset))
    image = g.nhwc("train.image")
    x0 = loaded.encode(image, g.nhwc("train.noise_encode"))
    low = loaded.encode(up2(down2(image)), g.nhwc("train.noise_lr_encode"))
    g.check_nhwc("train.lr_latent", low)
    sizes = np.tile(
        [image.shape[1], image.shape[1], *g["train.crop"], image.shape[1], image.shape[1]], (2, 1)
    )
    batch = {
        "x0": x0,
        "low": low,
        "cond": make_cond(loaded.text(g.meta["prompts"][1:3]), jnp.asarray(sizes)),
    }
    noise = g.nhwc("train.noise") + OFFSET * g["train.offset_randn"][:, None, None, None]
    model = build_model(UNet, loaded.description.stages["relay"].model)
    denoise = make_denoiser(
        lambda p, x, i, cond: model.apply({"params": p}, x, i, cond),
        jnp.asarray(ddpm_sigma()),
        "eps",
    )
    with pytest.MonkeyPatch.context() as patch:  # the released draws instead of ours
        patch.setattr(
            losses,
            "draw_t_and_noise",
            lambda *_: (jnp.asarray(g["train.idx"]) + 1, jnp.asarray(noise)),
        )
        loss = losses.diffusion_loss(
            denoise,
            make_schedule("linear", START),
            losses.Objective(offset_noise=OFFSET),
            t_max=START,
        )
        step = jax.jit(make_train_step(loss, make_tx(c.optim, c.train.steps), decay=0.99))
        with tiny_runs.devices(1):
            state, seen = build(c, Path("unused")).create(), []
        jax.tree.map(np.testing.assert_array_equal, state.params, loaded.params["base"])
        for _ in range(11):
            state, metrics = step(state, {}, batch)
            seen.append(metrics["loss"])
    g.check("train.loss_mean", seen[0])
    assert seen[10] < 0.98 * seen[0]
    assert not np.array_equal(g["train.discarded_randint"], g["train.idx"])


@pytest.mark.slow
def test_the_train_command_continues_from_released_weights(tmp_path):
    """The run's own cascade has the parts that it is based on."""
    training.run(
        config("micro", "train.steps=2", "train.log_every=1", "mesh.fsdp=8"), tmp_path / "run"
    )
    losses = [line["loss"] for line in read_lines(tmp_path / "run" / "metrics.jsonl")]
    assert np.isfinite(losses).all()
    assert pipeline.load(tmp_path / "run").description.stages.keys() == {"base", "relay"}
