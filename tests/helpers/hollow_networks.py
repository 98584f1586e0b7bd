"""Replace a run's networks by hollow ones that cost nothing and record their inputs.

A hollow network returns one parameter. Encoding, draws, losses, optimizer and EMA are those of a
real run; only the networks' computation is missing.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax import recipes
from cv3jax.cascade.parts import build_model
from cv3jax.checkpoints.description import TextDescription, VaeDescription
from cv3jax.diffusion.schedule import ddpm_sigma
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.training import programs as stage_programs
from cv3jax.training import stage as stage_plans
from cv3jax.training.programs import DiffusionPrograms, diffusion_programs, diffusion_step
from cv3jax.training.stage import MeshPlan, mesh_plan
from data_pipeline.images.decode import encode_png
from data_pipeline.records.records import make_record

SCALE = 0.5  # of the latents
BATCH, PART = 512, 128  # images an update, and a microbatch
SIDE, FACTOR, Z = 16, 4, 4  # of a picture, of the autoencoder, and channels of its latents
LATENT = (SIDE // FACTOR, SIDE // FACTOR, Z)
VAE = VaeDescription(
    {"channels": 8, "channel_mult": [1], "res_blocks": 1, "z_channels": Z, "patch": FACTOR}, SCALE
)
TEXT = TextDescription(
    {"vocab": 64, "channels": 8, "layers": 1, "heads": 1, "head_dim": 8, "ff": 8}, length=2
)
# an update of adam is its rate, up or down, when neither moment remembers
PLAIN = ("optim.kind=adamw", "optim.b1=0.0", "optim.b2=0.0", "optim.weight_decay=0.0")
shown: list[tuple[str, dict]] = []  # (network, what it was shown), one a call
traced: list[tuple[str, nn.Module, Any]] = []  # (network, itself, its first input), one a trace


def tell(name: str, **values: Any) -> None:
    """Append the inputs of a network to `shown` when it runs."""
    jax.debug.callback(
        lambda **values: shown.append((name, jax.tree.map(np.asarray, values))), **values
    )


class HollowUNet(UNet):
    """Predict the parameter `says` for every value, and read the text itself."""

    @nn.nowrap
    def text_kv(self, params, text):
        return text

    @nn.compact
    def __call__(self, x, index, cond):
        says = self.param("says", nn.initializers.normal(1.0), ())
        if self.w_dim:  # as in the real one
            says = says + self.param("w_proj", nn.initializers.zeros, ())
        if not self.is_initializing():
            traced.append(("unet", self, x))
            tell("unet", x=x, index=index, cond=cond, says=says)
        return jnp.full(x.shape, says)


class HollowVae(Autoencoder):
    """Encode to the mean colour of a position, and decode to a constant colour.

    Parameters give the log-variance and the decoded colour.
    """

    def setup(self):
        self.logvar = self.param("logvar", nn.initializers.zeros, ())
        self.says = self.param("says", nn.initializers.normal(1.0), ())

    def encode(self, pixels):
        if not self.is_initializing():
            traced.append(("vae", self, pixels))
        b, h, w, _ = pixels.shape
        f = self.factor
        mean = pixels.reshape(b, h // f, f, w // f, f, 3).mean((2, 4, 5))
        mean = jnp.repeat(mean[..., None], self.z_channels, -1)
        return mean, jnp.full(mean.shape, self.logvar)

    def decode(self, z):
        if not self.is_initializing():
            tell("vae", z=z)
        b, h, w, _ = z.shape
        return jnp.full((b, h * self.factor, w * self.factor, 3), self.says)


class HollowT5(T5Encoder):
    """Return the tokens as features."""

    @nn.compact
    def __call__(self, tokens, mask=None):
        kernel = self.param("kernel", nn.initializers.normal(1.0), (1, self.channels))
        if not self.is_initializing():
            traced.append(("t5", self, tokens))
        return tokens[..., None] * kernel.astype(jnp.float32)


def settings(recipe: str, *fields: str) -> Any:
    """Return the settings of a recipe's `:tiny`, with large batches of small pictures."""
    given = (f"batch.size={BATCH}", f"batch.per_device={PART}", f"data.image_size={SIDE}")
    last = dict(field.split("=", 1) for field in (*given, *PLAIN, *fields))
    return parse_recipe(
        recipes.load(f"{recipe}:tiny", [f"--config.{name}={value}" for name, value in last.items()])
    )


def plan_of(stage: Any) -> MeshPlan:
    """Return the mesh plan of a stage on one device."""
    return mesh_plan(stage, jax.devices()[:1])


def hollow(patch: pytest.MonkeyPatch) -> None:
    """Replace the networks of diffusion programs by those of this module."""
    for name, network in (
        ("UNet", HollowUNet),
        ("Autoencoder", HollowVae),
        ("T5Encoder", HollowT5),
    ):
        patch.setattr(stage_programs, name, network)


def programs(stage: Any, make_step: Any = diffusion_step) -> DiffusionPrograms:
    """Return what a run of that stage calls, with hollow networks on one device.

    What other tests' networks were shown is forgotten.
    """
    forget()
    with pytest.MonkeyPatch.context() as patch:
        hollow(patch)
        return diffusion_programs(stage, plan_of(stage), VAE, TEXT, make_step=make_step)


def hollow_vae() -> HollowVae:
    return build_model(HollowVae, VAE.model)


def frozen(logvar: float = 0.0) -> dict:
    """Return the encoders' parameters; a log-variance of -60 is next to no noise."""
    vae = {"logvar": jnp.float32(logvar), "says": jnp.float32(0)}
    return {"vae": vae, "t5": {"kernel": jnp.ones((1, TEXT.model["channels"]))}}


def loader_batch(seed: int = 0) -> dict:
    """Return pictures of one colour each, with captions of the token 1 + row."""
    colours = np.random.default_rng(seed).integers(0, 256, (BATCH, 1, 1, 3), dtype=np.uint8)
    rows = np.arange(1, BATCH + 1, dtype=np.int32)
    return {
        "image": np.broadcast_to(colours, (BATCH, SIDE, SIDE, 3)),
        "tokens": np.repeat(rows[:, None], TEXT.length, 1),
        "sizes": np.tile(np.array([SIDE, SIDE, 0, 0, SIDE, SIDE], np.int32), (BATCH, 1)),
    }


def encoded(low: float | None = None) -> dict:
    """Return an input of `train`: latents of 0, and a text that contains the row.

    For a relay `low` has that value everywhere.
    """
    text = np.broadcast_to(
        np.arange(1.0, BATCH + 1, dtype=np.float32)[:, None, None], (BATCH, TEXT.length, 8)
    )
    cond = {"text": text, "vector": np.zeros((BATCH, 1536), np.float32)}
    out = {"x0": np.zeros((BATCH, *LATENT), np.float32), "cond": cond}
    return out if low is None else {**out, "low": np.full((BATCH, *LATENT), low, np.float32)}


def seen(name: str) -> dict:
    """Return the inputs of a network since the last call of this function, in order."""
    return seen_apart(lambda values: True, name)[0]


def forget() -> None:
    """Forget the inputs so far, which may be those of other tests and of other shapes."""
    jax.effects_barrier()
    shown.clear()


def seen_apart(first: Callable[[dict], bool], name: str = "unet") -> tuple[dict, dict]:
    """Return `seen` of the calls for which `first` holds, and of the others."""
    jax.effects_barrier()
    calls = [values for other, values in shown if other == name]
    shown.clear()
    return tuple(
        jax.tree.map(
            lambda *parts: np.concatenate([np.atleast_1d(part) for part in parts]),
            *([values for values in calls if first(values) == whether] or [{}]),
        )
        for whether in (True, False)
    )


def by_row(asked: dict) -> dict:
    """Return a UNet's inputs in the order of the rows that its text contains.

    Rows without text are left out.
    """
    rows = asked["cond"]["text"][:, 0, 0]
    order = np.argsort(rows, kind="stable")[np.count_nonzero(rows == 0) :]
    return jax.tree.map(lambda x: x[order] if len(x) == len(rows) else x, asked)


def unscaled(asked: dict) -> tuple[np.ndarray, np.ndarray]:
    """Return (t [B], the noisy latents [B, h, w, z]) of a UNet's inputs.

    The UNet gets t - 1 and the latents over √(1 + σ²).
    """
    t = asked["index"] + 1
    return t, asked["x"] * np.sqrt(1 + sigma_at(t) ** 2)


def sigma_at(t: np.ndarray) -> np.ndarray:
    """Return σ of the training table, float64 [B, 1, 1, 1]."""
    return ddpm_sigma().astype(np.float64)[t][:, None, None, None]


def one_device(patch: pytest.MonkeyPatch) -> None:
    """Make stages see the first device alone."""
    make = stage_plans.make_mesh
    patch.setattr(
        stage_plans, "make_mesh", lambda **axes: make(**{**axes, "devices": jax.devices()[:1]})
    )


def records(count: int) -> list:
    """Return records of pictures of one value each: their number, which is their caption too."""
    images = (np.full((SIDE, SIDE, 3), i, np.uint8) for i in range(count))
    return [make_record(encode_png(x), str(i), key=f"k{i}") for i, x in enumerate(images)]


def tokens(captions: list[str]) -> np.ndarray:
    """Return the tokens of captions that are numbers."""
    return np.array([[int(caption) + 1] * TEXT.length for caption in captions], np.int32)


def begins_by_seed(stage: Any, seed: int) -> None:
    """Fail where a stage's fresh state is not that of the seed, or would be that of another."""
    state = stage.create()
    for other in (seed, 0, seed + 1):
        key = jax.random.split(jax.random.key(other))[1]
        same = np.array_equal(jax.random.key_data(state.key), jax.random.key_data(key))
        assert same == (other == seed)
