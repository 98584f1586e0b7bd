"""Check that a round's student begins as its teacher.

Both denoisers get the same random inputs, in float32, before the teacher is cast.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.parts import model_of
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.diffusion.denoiser import make_denoiser
from cv3jax.diffusion.schedule import ddpm_sigma, per_sample
from cv3jax.distillation.loss import with_guidance
from cv3jax.distillation.settings import DistillSettings, RoundSettings
from cv3jax.distributed import processes
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import batch_sharding, batch_ways
from cv3jax.distributed.partitioning import tree_specs
from cv3jax.models.unet import UNet
from cv3jax.training.stage import MeshPlan
from data_pipeline.io.errors import InputError

ROWS = 4  # least number of inputs
# relative to the predictions' root mean square; the same arithmetic in two programs differs by
# rounding only
TOLERANCE = 1e-4


class Inputs(NamedTuple):
    """The shapes of what both denoisers get."""

    latent: tuple[int, int, int]  # (h, w, z)
    text: tuple[int, int]  # (tokens, width)
    factor: int  # pixels per latent pixel, per side


def parity(
    settings: DistillSettings,
    mesh: MeshPlan,
    round: RoundSettings,
    student: Any,
    teacher: Any,
    teacher_w_dim: int,
    shapes: Inputs,
) -> float:
    """Return the largest difference of the two predictions over their root mean square.

    A teacher without w is evaluated unguided, as at w = 1. student, teacher: float32 parameters,
    sharded over the mesh.

    Raises:
        InputError: the predictions differ by more than rounding, so these are not the teacher's
            weights.
    """
    stage = settings.stage
    rows = -(-ROWS // batch_ways(mesh.mesh)) * batch_ways(mesh.mesh)
    draws, grid = np.random.default_rng(stage.seed), settings.grid(2 * round.steps)
    t = np.asarray(grid.t)[np.arange(rows) % (2 * round.steps)]
    inputs = {
        "x": draws.standard_normal((rows, *shapes.latent), np.float32),
        "t": t,
        "text": draws.standard_normal((rows, *shapes.text), np.float32),
        "sizes": np.asarray(
            picture_sizes(rows, *(side * shapes.factor for side in shapes.latent[:2]))
        ),
        "w": draws.uniform(*round.w, rows).astype(np.float32),
    }
    inputs = jax.device_put(inputs, batch_sharding(mesh.mesh))

    def program(like: Any, w_dim: int) -> Callable:
        layout = Layout(mesh.mesh, tree_specs(like, mesh.mesh), "float32")
        fields = {**stage.model, "w_dim": w_dim, "dtype": "float32", "remat": "none"}
        model = model_of(
            UNet,
            fields,
            "config.model",
            out_channels=shapes.latent[2],
            gather=layout.gather,
            constrain=layout.constrain,
        )

        def run(params, _, given):
            whole = layout.whole(params, UNet.gathers)
            sigma = jnp.asarray(ddpm_sigma())
            denoise = make_denoiser(
                lambda p, x, i, c: model.apply({"params": p}, x, i, c),
                sigma,
                stage.objective.prediction,
            )
            cond = with_guidance(make_cond(given["text"], given["sizes"]), given["w"], w_dim)
            x = given["x"] * per_sample(jnp.sqrt(1.0 + sigma[given["t"]] ** 2), given["x"])
            return denoise(whole, x, given["t"], cond)

        return jax.jit(layout.spread(run))

    ours = program(student, settings.w_dim)
    theirs = ours if teacher_w_dim == settings.w_dim else program(teacher, teacher_w_dim)
    ours, theirs = (
        processes.whole(run(params, {}, inputs))
        for run, params in ((ours, student), (theirs, teacher))
    )
    difference = float(np.abs(ours - theirs).max() / np.sqrt(np.mean(theirs**2)))
    if not difference <= TOLERANCE:
        much = f"by {difference:.2g}, but rounding explains at most {TOLERANCE:g}"
        raise InputError(
            f"round {round.number}: the student does not equal its teacher before the first update:"
            f" their predictions differ {much}"
        )
    return difference
