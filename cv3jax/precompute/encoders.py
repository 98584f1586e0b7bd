"""The frozen encoders on a batch of records: two jitted programs, sharded by rows."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from cv3jax.cascade.parts import build_model, load_params
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.diffusion.conditioning import posteriors
from cv3jax.distributed.backend import announced
from cv3jax.distributed.fsdp import Layout
from cv3jax.distributed.mesh import batch_sharding, batch_ways
from cv3jax.distributed.partitioning import tree_sharding, tree_specs
from cv3jax.models.precision import as_computed
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from cv3jax.training.settings import StageSettings
from data_pipeline.loading.crops import fit

INT8 = 127  # the largest magnitude


class Encoders(NamedTuple):
    """Loaded encoders. `latents` and `text` are None where the identity leaves them out.

    Their results stay on the devices: {name: [width, ...]} with the names of
    `data_pipeline.records.feature_cache`, and "finite" bool [width].
    """

    width: int  # rows of a batch
    side: int  # pixels
    # bytes of an image → the crop to encode, uint8 [side, side, 3], and sizes
    view: Callable[[bytes], tuple[np.ndarray, np.ndarray]]
    latents: Callable[[np.ndarray], dict[str, jax.Array]] | None  # uint8 [width, side, side, 3]
    text: Callable[[np.ndarray], dict[str, jax.Array]] | None  # tokens int32 [width, L]
    tokenize: Callable[[list[str]], np.ndarray] | None


def load_encoders(
    settings: StageSettings,
    directory: Path,
    description: CascadeDescription,
    identity: dict[str, Any],
    mesh: Mesh,
    batch: int,
) -> Encoders:
    """Return the encoders that `identity` (`cache_identity.cache_identity`) names, on `mesh`.

    They take `batch` images per device. Raises InputError on a damaged part.
    """
    needed = tuple(
        part for part, there in (("vae", identity["latents"]), ("t5", identity["text"])) if there
    )
    params, tokenize = load_params(
        directory, description, needed, lambda tree: tree_sharding(tree, mesh)
    )
    latents = text = None
    if "vae" in params:
        vae = build_model(Autoencoder, {**description.vae.model, "dtype": settings.vae.dtype})
        latents = on_rows(
            latent_program(vae, params["vae"], mesh, identity["latents"]), params["vae"], mesh
        )
    if "t5" in params:
        t5 = build_model(T5Encoder, {**description.t5.model, "dtype": settings.text.dtype})
        params["t5"] = as_computed(params["t5"], settings.text.dtype)
        text = on_rows(
            text_program(t5, params["t5"], mesh, identity["text"]["dtype"]), params["t5"], mesh
        )
    view = functools.partial(
        fit,
        size=settings.data.image_size,
        zoom=settings.data.zoom[0],
        grid=settings.data.crop_grid,
    )
    return Encoders(
        batch * batch_ways(mesh), settings.data.image_size, view, latents, text, tokenize
    )


def on_rows(
    program: Callable, params: Any, mesh: Mesh
) -> Callable[[np.ndarray], dict[str, jax.Array]]:
    """Return `program(params, rows)` as a function of rows that are on the host."""
    return lambda rows: program(params, jax.device_put(rows, batch_sharding(mesh)))


def latent_program(vae: Autoencoder, params: Any, mesh: Mesh, identity: dict[str, Any]) -> Callable:
    """Return the program (params, uint8 [B, H, W, 3]) → posteriors, and which rows are finite.

    The posteriors have the types in which `identity` says they are stored; "finite" is of these.
    """
    layout = Layout(mesh, tree_specs(params, mesh), vae.dtype)

    def rows(params, _, image):
        whole = layout.whole(params)
        out = posteriors(
            image, lambda x: vae.apply({"params": whole}, x, method="encode"), identity["low"]
        )
        out = {name: value.astype(identity["dtype"]) for name, value in out.items()}
        return {**out, "finite": finite(*out.values())}

    program = jax.jit(
        lambda params, image: layout.spread(rows)(params, {}, image),
        out_shardings=batch_sharding(mesh),
    )
    return announced(program, "the image encoder")


def text_program(t5: T5Encoder, params: Any, mesh: Mesh, dtype: str) -> Callable:
    """Return the program (params, tokens [B, L]) → features as `dtype`, and which rows are finite.

    For int8 it also returns their scales.
    """
    layout = Layout(mesh, tree_specs(params, mesh), t5.dtype)
    local = t5.clone(gather=layout.gather)

    def rows(params, _, tokens):
        features = local.apply({"params": layout.whole(params, T5Encoder.gathers)}, tokens)
        return {**stored(features, dtype), "finite": finite(features)}

    program = jax.jit(
        lambda params, tokens: layout.spread(rows)(params, {}, tokens),
        out_shardings=batch_sharding(mesh),
    )
    return announced(program, "the text encoder")


def stored(features: jax.Array, dtype: str) -> dict[str, jax.Array]:
    """Return features float32 [B, L, C] as they are stored.

    The result is {text}, or for int8 {text, text_scale [B, L]}, where the largest value of a token
    is 127.
    """
    if dtype != "int8":
        return {"text": features.astype(dtype)}
    scale = jnp.max(jnp.abs(features), axis=-1) / INT8
    steps = features / jnp.where(scale > 0, scale, 1.0)[..., None]
    return {"text": jnp.round(steps).astype(jnp.int8), "text_scale": scale}


def finite(*values: jax.Array) -> jax.Array:
    """Return which rows of all `values` [B, ...] hold neither infinities nor NaN, bool [B]."""
    rows = [jnp.isfinite(value).reshape(value.shape[0], -1).all(axis=1) for value in values]
    return jnp.stack(rows).all(axis=0)
