"""The models of the golden presets in float32, with the weights that belong to them, and ways to run them that compile little."""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import golden_weights
import jax
import jax.numpy as jnp
import numpy as np
from golden import meta, weights_spec

from cv3jax.denoiser import make_denoiser
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder, posterior_sample
from cv3jax.schedule import ddpm_sigma
from cv3jax.weights.names import Entry, t5_entries, unet_entries, vae_entries
from cv3jax.weights.tree import to_ours, to_torch

LATENT_SCALE = 0.13025
GUIDANCE = 7.5
BATCH = 4  # of every UNet call: smaller ones are filled up, larger ones split, so that few shapes are compiled


@functools.cache
def weights(preset: str, file: str) -> dict[str, np.ndarray]:
    return golden_weights.build(weights_spec(preset)[file])


def unet_sizes(preset: str) -> dict[str, Any]:
    config, w_dim = meta(preset)["preset_config"]["unet"], meta(preset)["preset_config"]["cfg_dim"]
    depth = tuple(config["transformer_depth"])
    return {"channels": config["model_channels"], "channel_mult": tuple(config["channel_mult"]), "res_blocks": config["num_res_blocks"],
            "depth": (0, *depth[1:]), "mid_depth": depth[-1], "w_dim": w_dim or 0}  # fmt: skip


@functools.cache
def unet(preset: str) -> tuple[UNet, dict, list[Entry]]:
    sizes = unet_sizes(preset)
    entries = unet_entries(**sizes)
    model = UNet(**sizes, head_dim=meta(preset)["preset_config"]["unet"]["num_head_channels"])
    return model, _params(preset, "unet.safetensors", entries), entries


@functools.cache
def vae(preset: str) -> tuple[Autoencoder, dict, list[Entry]]:
    config = meta(preset)["preset_config"]["dd"]
    sizes = {"channels": config["ch"], "channel_mult": tuple(config["ch_mult"]), "res_blocks": config["num_res_blocks"]}
    entries = vae_entries(**sizes)
    return Autoencoder(**sizes), _params(preset, "vae.safetensors", entries), entries


@functools.cache
def t5(preset: str) -> tuple[T5Encoder, dict]:
    config, width = meta(preset)["preset_config"]["t5"], meta(preset)["preset_config"]["unet"]["context_dim"]
    model = T5Encoder(
        vocab=256, channels=width, layers=config["num_layers"], heads=config["num_heads"], head_dim=config["d_kv"], ff=config["d_ff"]
    )
    return model, _params(preset, "t5/model.safetensors", t5_entries(layers=config["num_layers"]))


def _params(preset, file, entries):
    return jax.tree.map(jnp.asarray, to_ours(weights(preset, file), entries))


@functools.cache
def _executable(function, shapes, treedef, optimise):
    args = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    return jax.jit(function).lower(*args).compile(compiler_options={} if optimise else {"xla_backend_optimization_level": 0})


def call(function, *args, optimise=False):
    """jit(function)(*args), which also works where jit is disabled. `function` must be the same object from call to call.

    What runs a few times only is quicker without the backend's optimisations: they take more than half of a UNet's compilation.
    """
    args = jax.tree.map(jnp.asarray, args)
    leaves, treedef = jax.tree.flatten(args)
    with jax.disable_jit(False):
        return _executable(function, tuple((leaf.shape, leaf.dtype) for leaf in leaves), treedef, optimise)(*args)


@functools.cache
def unet_function(preset: str):
    model = unet(preset)[0]
    return lambda params, x, index, cond: model.apply({"params": params}, x, index, cond)


def with_w(preset: str, cond: dict) -> dict:
    """A zero w embedding where there is none: it adds nothing, and saves compiling the model a second time."""
    width = unet_sizes(preset)["w_dim"]
    return {"w": np.zeros((len(cond["text"]), width), np.float32), **cond} if width else cond


def network(preset: str):
    """F(params, x, index, cond), compiled for batches of BATCH."""

    def apply(params, x, index, cond):
        # NumPy cuts the batches: eager jax would compile every cut
        batch, size = jax.tree.map(np.asarray, (x, index, with_w(preset, cond))), len(x)
        cuts = [np.minimum(np.arange(i, i + BATCH), size - 1) for i in range(0, size, BATCH)]
        parts = [jax.tree.map(lambda value, rows=rows: value[rows], batch) for rows in cuts]
        # the samplers' shape, which runs some 300 times
        optimise = cond["text"].shape[1] == meta(preset)["preset_config"]["ctx_len"]
        return np.concatenate([call(unet_function(preset), params, *part, optimise=optimise) for part in parts])[:size]

    return apply


@functools.cache
def differentiable_network(preset: str):
    """As `network`, for jax.grad with respect to params outside jit: one compiled backward pass serves every loss."""

    def pull_back(params, x, index, cond, cotangent):
        return jax.vjp(lambda params: unet_function(preset)(params, x, index, cond), params)[1](cotangent)[0]

    def forward(*args):
        return call(unet_function(preset), *args, optimise=True), args  # which the samplers compile anyway

    def backward(args, cotangent):
        return call(pull_back, *args, cotangent), None, None, None

    apply = jax.custom_vjp(lambda *args: forward(*args)[0])
    apply.defvjp(forward, backward)
    return lambda params, x, index, cond: apply(params, x, index, with_w(preset, cond))


def denoiser(preset: str, make_network=network):
    return make_denoiser(make_network(preset), jnp.asarray(ddpm_sigma()), "eps")


@functools.cache
def vae_function(preset: str, method: str | Callable):
    model = vae(preset)[0]
    return lambda params, x: model.apply({"params": params}, x, method=method)


def encode(preset: str, pixels, noise):
    """Scaled latents of a posterior sample, as both stages of the release use them."""
    mean, logvar = call(vae_function(preset, "encode"), vae(preset)[1], pixels)
    return LATENT_SCALE * posterior_sample(mean, logvar, noise)


def decode(preset: str, latents):
    return call(vae_function(preset, "decode"), vae(preset)[1], latents / LATENT_SCALE)


@functools.cache
def t5_function(preset: str):
    model = t5(preset)[0]
    return lambda params, *args: model.apply({"params": params}, *args)


def text_features(preset: str, *args):
    """T5 of (tokens,) or (tokens, mask)."""
    return call(t5_function(preset), t5(preset)[1], *args)


class _ReachedError(Exception):
    """Carries out of a model what the module it stopped at returned."""


def run_module(model: nn.Module, params: dict, path: tuple[str, ...], model_args: tuple, args: tuple):
    """What the submodule at `path` makes of `args`, built by the model itself, so with the epsilon that the model gives it."""

    def function(params, args):
        def intercept(next_function, given, named, context):
            if context.module.path == path and context.method_name == "__call__":
                raise _ReachedError(next_function(*args))
            return next_function(*given, **named)

        try:
            with nn.intercept_methods(intercept):
                model.apply({"params": params}, *model_args)
        except _ReachedError as reached:
            return reached.args[0]
        raise KeyError(f"the model has no module {path}")

    return call(function, params, args)


def our_path(torch: str, entries: list[Entry]) -> tuple[str, ...]:
    """The path of the module that holds the tensors `torch`.* of a checkpoint."""
    paths = [entry.path for entry in entries if entry.torch.startswith(f"{torch}.")]
    shared = 0
    while len({path[: shared + 1] for path in paths}) == 1:
        shared += 1
    return paths[0][:shared]


def gradient_norms(preset: str, gradients: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Gradients under their torch names, and their norms in the order of meta's named_params."""
    tensors = to_torch(gradients, unet(preset)[2])
    return tensors, np.array([np.linalg.norm(tensors[name]) for name in meta(preset)["named_params"]], np.float32)
