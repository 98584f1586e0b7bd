"""The small random UNet in diffusers, and its outputs beside ours for the same parameters."""

from typing import Any

import adapters
import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.adapters import formats, trees
from cv3jax.cascade.parts import build_model, model_shapes
from cv3jax.diffusion.conditioning import make_cond
from cv3jax.models.adapters import merged
from cv3jax.models.unet import UNet
from cv3jax.weights import diffusers as names
from cv3jax.weights.mapping import to_torch

STAGE = adapters.STAGE
MODEL = build_model(UNet, STAGE.model)
TOLERANCE = 1e-4  # of the largest output


def params() -> Any:
    """Return random parameters of the UNet, which no initialisation leaves at zero."""
    rng = np.random.default_rng(3)

    def filled(leaf: Any) -> jax.Array:
        kernel = len(leaf.shape) > 1
        mean, spread = (0, np.prod(leaf.shape[:-1]) ** -0.5) if kernel else (0.3, 0.3)
        return jnp.asarray(rng.normal(mean, spread, leaf.shape), leaf.dtype)

    return jax.tree.map(filled, model_shapes(MODEL, STAGE.text_width))


def inputs() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(4)
    return {
        "x": rng.normal(size=(2, 4, 4, 4)).astype(np.float32),
        "index": np.asarray([5, 700], np.int32),
        "text": rng.normal(size=(2, 6, STAGE.text_width)).astype(np.float32),
        "sizes": np.asarray([[16, 16, 0, 0, 16, 16]] * 2, np.float32),
    }


def torch_unet(parameters: Any) -> Any:
    """Return a UNet2DConditionModel with our parameters."""
    import diffusers
    import torch

    entries = list(all_entries())
    unet = diffusers.UNet2DConditionModel.from_config(
        names.unet_config(MODEL, STAGE.text_width, 4)
    ).eval()
    tensors = to_torch(parameters, names.unet_names(entries, len(MODEL.channel_mult)))
    unet.load_state_dict({name: torch.from_numpy(value) for name, value in tensors.items()})
    return unet


def all_entries() -> list[Any]:
    from cv3jax.adapters.naming import FIELDS
    from cv3jax.weights.names import unet_entries

    return unet_entries(**{name: getattr(MODEL, name) for name in FIELDS})


def their_output(unet: Any) -> np.ndarray:
    """Return what diffusers' UNet makes of `inputs`, [B, H, W, z]."""
    import torch

    given = {name: torch.from_numpy(value) for name, value in inputs().items()}
    with torch.no_grad():
        made = call(unet, given)
    return made.permute(0, 2, 3, 1).numpy()


def call(unet: Any, given: dict[str, Any]) -> Any:
    import torch

    added = {"text_embeds": torch.zeros(2, 0), "time_ids": given["sizes"]}
    x = given["x"].permute(0, 3, 1, 2)
    return unet(x, given["index"], given["text"], added_cond_kwargs=added).sample


@jax.jit
def _applied(parameters: Any) -> jax.Array:
    given = inputs()
    cond = make_cond(jnp.asarray(given["text"]), jnp.asarray(given["sizes"]))
    return MODEL.apply({"params": parameters}, given["x"], given["index"], cond)


def our_output(parameters: Any, adapter: Any = None) -> np.ndarray:
    """Return what our UNet makes of `inputs`, with an adapter in its weights."""
    if adapter is not None:
        parameters = merged(parameters, trees.to_tree(adapter, STAGE))
    return np.asarray(_applied(parameters))


def read(path: Any) -> Any:
    """Return an adapter of another program with sgm's names."""
    return trees.fitted(formats.read(path), STAGE, "theirs")


def off(ours: np.ndarray, theirs: np.ndarray) -> float:
    """Return the largest difference as a share of the largest output."""
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())
