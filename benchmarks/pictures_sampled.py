"""Draw the documents' pictures that the packaged cascades sample: trajectory and rounds."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from cv3jax.cascade.parts import build_model
from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.cascade.stage_sampler import fold
from cv3jax.checkpoints import cascades
from cv3jax.diffusion import sampler
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.diffusion.denoiser import guided, make_denoiser
from cv3jax.diffusion.pixels import to_pixels, up2
from cv3jax.diffusion.schedule import Grid, base_grid, ddpm_sigma, relay_grid
from cv3jax.evaluation.distilled_scenes import compared, sample, with_rounds
from cv3jax.evaluation.scenes import judged_scenes
from cv3jax.models.unet import UNet
from cv3jax.quickstart.report_distilled import label
from cv3jax.reports.pictures import contact_sheet
from data_pipeline.scenes import grammar

TEACHER, STUDENT = "scenes_teacher", "scenes"
PROMPT = (
    "a large orange striped circle with a thin black outline on the left and a large cyan striped"
    " triangle with a thin black outline on the right, grey background"
)
BASE_SHOWN, RELAY_SHOWN = (0, 8, 13, 17, 20), (0, 3, 5, 8, 10)  # points of the grids
COLUMNS = 4  # of `rounds`


class Trajectory(NamedTuple):
    """Hold the points of a grid: x_t [n + 1, h, w, z] and x̂0 [n, h, w, z].

    x̂0 is predicted at each point but the last.
    """

    grid: Grid
    x: np.ndarray
    x0: np.ndarray


def walk(
    cascade: Cascade, name: str, text: jax.Array, noise: jax.Array, low: jax.Array | None
) -> Trajectory:
    """Return the trajectory of one picture through a stage, as `Cascade.stage` samples it."""
    stage = cascade.description.stages[name]
    model = build_model(UNet, stage.model)
    grid = (
        base_grid(stage.steps)
        if low is None
        else relay_grid(stage.steps, stage.start, stage.blur or "linear")
    )
    sigmas, sides = jnp.asarray(ddpm_sigma()), noise.shape[1] * stage.factor
    plain = make_denoiser(
        lambda p, x, i, c: model.apply({"params": p}, x, i, c), sigmas, stage.prediction
    )
    denoise = guided(plain, stage.guidance)
    cond = make_cond(text, picture_sizes(1, sides, sides), None, 0)

    @jax.jit
    def run(params):
        x = sampler.start(grid, noise, low)
        _, after = sampler.sample(lambda x, t: denoise(params, x, t, cond), grid, x, low)
        return jnp.concatenate([x[None], after])

    x = np.asarray(run(cascade.params[name]), np.float64)[:, 0]
    drift = 0.0 if low is None else np.asarray(low, np.float64)[0]
    return Trajectory(grid, x, predictions(grid, x, drift))


def predictions(grid: Grid, x: np.ndarray, low: np.ndarray | float) -> np.ndarray:
    """Return x̂0 at each point but the last, computed from the step to the next point.

    x_s - r x_t = [(1 - b_s) - r (1 - b_t)] x̂0 + (b_s - r b_t) low, where r = σ_s/σ_t.
    """
    found = []
    for i in range(grid.steps):
        (sigma_t, sigma_s), (b_t, b_s) = (
            np.asarray(values, np.float64)[i : i + 2] for values in (grid.sigma, grid.blur)
        )
        r = sigma_s / sigma_t
        drift = (b_s - r * b_t) * low
        found.append((x[i + 1] - r * x[i] - drift) / ((1 - b_s) - r * (1 - b_t)))
    return np.stack(found)


def trajectory() -> Figure:
    """Return x_t and x̂0 of the base and of the relay from its start, decoded, at some points."""
    cascade = load(cascades.PACKAGED / TEACHER)
    keys = jax.vmap(jax.random.key)(jnp.arange(1))
    side = cascade.description.stages["base"].image_size
    text = cascade.text([PROMPT])
    base = walk(cascade, "base", text, cascade.noise(keys, side), None)
    large = up2(to_pixels(jnp.asarray(decoded(cascade, base.x[-1:]))))
    low = cascade.encode(large, cascade.noise(fold(keys, 2), 2 * side))
    relay = walk(cascade, "relay", text, cascade.noise(fold(keys, 3), 2 * side), low)
    figure = Figure(figsize=(6.0, 5.5), dpi=130, layout="constrained")
    plots = figure.subplots(4, len(BASE_SHOWN))
    for row, (path, shown, name) in enumerate(
        ((base, BASE_SHOWN, "base"), (relay, RELAY_SHOWN, "relay"))
    ):
        sigma, t = np.asarray(path.grid.sigma), np.asarray(path.grid.t)
        # a latent of x0 has a standard deviation of about 1, and the decoder expects that
        scaled = path.x / np.sqrt(1 + sigma[:, None, None, None] ** 2)
        noisy = decoded(cascade, scaled[list(shown)])
        clean = decoded(cascade, np.concatenate([path.x0, path.x[-1:]])[list(shown)])
        for column, point in enumerate(shown):
            top, below = plots[2 * row : 2 * row + 2, column]
            top.imshow(noisy[column], interpolation="nearest")
            below.imshow(clean[column], interpolation="nearest")
            top.set_title(f"t = {t[point]}\nσ = {sigma[point]:.2g}", fontsize=9.5)
        for axes, what in zip(
            plots[2 * row : 2 * row + 2, 0], ("$x_t$", "$\\hat x_0$"), strict=True
        ):
            axes.set_ylabel(f"{name}\n{what}", rotation=0, ha="right", va="center", labelpad=8)
    for axes in plots.flat:
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_visible(True)
        axes.spines[:].set(color="#999999", linewidth=0.6)
    return figure


def decoded(cascade: Cascade, latents: np.ndarray) -> np.ndarray:
    """Return uint8 pictures of latents [N, h, w, z]."""
    return cascade.decode(jnp.asarray(latents, jnp.float32))


def rounds() -> Image.Image:
    """Return a contact sheet of the packaged cascades' samplers, a row each, the noise the same."""
    teacher, student = (load(cascades.PACKAGED / name) for name in (TEACHER, STUDENT))
    full, few = (
        tuple(one.description.stages[name].steps for name in ("base", "relay"))
        for one in (teacher, student)
    )
    both = with_rounds(teacher, {few: (cascades.PACKAGED / STUDENT,) * 2})
    captions = [grammar.caption(scene) for scene in judged_scenes(COLUMNS, 0)]
    rows, names = [], []
    for name, way in compared(both, full, [few]).items():
        row = {"steps": way.steps, "guidance": way.guidance}
        names.append(label(name, row))
        rows.append(sample(both, way, captions, np.arange(COLUMNS))[0])
    return Image.fromarray(contact_sheet(rows, rows=names, columns=captions))
