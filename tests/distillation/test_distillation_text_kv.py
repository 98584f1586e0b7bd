"""The keys and values of a text that both predictions of a teacher share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from distillation_rounds import a_round, keys
from noised import noised, normal

from cv3jax.cascade.parts import unet_init
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.diffusion.denoiser import make_denoiser
from cv3jax.diffusion.schedule import base_grid, ddpm_sigma
from cv3jax.distillation.loss import distillation_loss
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import make_mesh
from cv3jax.distributed.partitioning import tree_specs
from cv3jax.models.unet import UNet

W_DIM, ROWS, TEXT = 16, 2, (5, 16)
SIZES = {"channels": 16, "channel_mult": (1,), "res_blocks": 1, "depth": (2,), "mid_depth": 1}
STUDENT = UNet(**SIZES, head_dim=8, groups=4, w_dim=W_DIM)


@pytest.mark.parametrize("teacher_w_dim", [0, W_DIM], ids=["guided", "guidance-conditioned"])
def test_loss_and_gradient_are_those_of_the_text_itself(teacher_w_dim):
    teacher, init = STUDENT.clone(w_dim=teacher_w_dim), jax.random.key(0)
    params, theirs = (
        noised(jax.jit(unet_init(model, TEXT[1]))(init), seed)
        for seed, model in enumerate((STUDENT, teacher))
    )
    cond = make_cond(normal(1, ROWS, *TEXT), picture_sizes(ROWS, 64, 64))
    batch = {"x0": normal(2, ROWS, 4, 4, 4), "cond": cond}
    read = []

    def read_text(params, text):
        read.append(text.shape)
        return teacher.text_kv(params, text)

    def of(model):
        return make_denoiser(
            lambda p, x, i, c: model.apply({"params": p}, x, i, c), jnp.asarray(ddpm_sigma()), "v"
        )

    frozen = {"teacher": theirs, "round": a_round(base_grid(4), w=(2.0, 6.0))}
    made = []
    for given in (None, read_text):
        loss = distillation_loss(
            of(STUDENT), of(teacher), w_dim=W_DIM, teacher_w_dim=teacher_w_dim, read_text=given
        )
        run = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (value, _), gradient = run(params, frozen, batch, keys(n=ROWS))
        made.append([value, *jax.tree.leaves(gradient)])
    assert read == [(ROWS, *TEXT)]  # once for both predictions
    assert made[0][0] > 1e-3
    for plain, cached in zip(*made, strict=True):
        assert np.abs(cached - plain).max() <= 1e-4 * np.abs(plain).max() + 1e-8


def test_keys_and_values_of_sharded_parameters():
    """Each device gathers the kernels of one block at a time, and has the keys of its own rows."""
    mesh = make_mesh(data=2, fsdp=4)
    wide = STUDENT.clone(channels=256, head_dim=64, depth=(0,))  # large enough to be sharded
    shapes = jax.eval_shape(unet_init(wide, 256), jax.random.key(0))
    params = jax.tree.map(
        lambda x: normal(x.size, *x.shape), {"mid_0_transformer": shapes["mid_0_transformer"]}
    )
    layout = Layout(mesh, tree_specs(params, mesh), "float32")
    local, text = wide.clone(gather=layout.gather), normal(1, 8, 5, 256)
    specs = layout.specs["mid_0_transformer"]["blocks"]["cross_attention"]
    assert "fsdp" in tuple(specs["k"]["kernel"])

    def rows(params, _, text):
        return jax.tree.map(lambda x: x.swapaxes(0, 1), local.text_kv(params, text))

    made = jax.jit(layout.spread(rows))(params, {}, text)
    for ours, theirs in zip(
        jax.tree.leaves(made), jax.tree.leaves(wide.text_kv(params, text)), strict=True
    ):
        np.testing.assert_allclose(ours.swapaxes(0, 1), theirs, rtol=1e-4, atol=1e-3)
