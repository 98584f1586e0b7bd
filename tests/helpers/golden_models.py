"""Load the models of the golden presets in float32 from converted checkpoints.

The functions here run them with few compilations.
"""

import functools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import golden_weights
import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from golden import ROOT, meta, weights_spec
from safetensors.numpy import save_file
from shared import once, root

from cv3jax.cascade.parts import build_model, load_params
from cv3jax.checkpoints import cascades
from cv3jax.commands import convert
from cv3jax.diffusion.denoiser import make_denoiser
from cv3jax.diffusion.schedule import ddpm_sigma
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder, posterior_sample
from cv3jax.weights.mapping import to_torch
from cv3jax.weights.names import Entry, unet_entries, vae_entries

LATENT_SCALE = 0.13025
# what the table of names needs
UNET_SIZES = ("channels", "channel_mult", "res_blocks", "depth", "mid_depth", "w_dim")
GUIDANCE = 7.5
# of every UNet call: smaller ones are filled up, larger ones split, so that few shapes are compiled
BATCH = 4
OPTIMISED = {"xla_backend_optimization_level": 3}  # against what conftest.py says
if jaxlib.__version__.startswith("0.10."):
    OPTIMISED["xla_cpu_use_fusion_emitters"] = True


@functools.cache
def files(preset: str) -> Path:
    """Return the preset's weights in released form: unet.safetensors, vae.safetensors, t5/."""
    folder = root() / preset
    with once(preset) as missing:
        if missing:
            shutil.copytree(ROOT / preset / "t5", folder / "t5")
            for file, spec in weights_spec(preset).items():
                tensors = {
                    spec["prefix"] + name: value
                    for name, value in golden_weights.build(spec).items()
                }
                save_file(tensors, folder / file, metadata={"format": "pt"})
    return folder


@functools.cache
def converted(preset: str) -> Path:
    """Return the checkpoint that `cv3jax convert` makes of them, which all golden tests use."""
    folder, facts = files(preset), meta(preset)
    unet = str(folder / "unet.safetensors")
    base, relay = (facts["e2e"][f"sampler_{stage}"]["params"] for stage in ("base", "relay"))
    arguments = [
        "--base",
        unet,
        "--relay",
        unet,
        "--vae",
        str(folder / "vae.safetensors"),
        "--t5",
        str(folder / "t5"),
        "--head-channels",
        str(facts["preset_config"]["unet"]["num_head_channels"]),
        "--image-size",
        str(8 * facts["e2e"]["base_latent_hw"][0]),
        "--steps",
        f"{base['num_steps']},{relay['partial_num_steps']}",
        "--relay-start",
        str(1000 * relay["partial_num_steps"] // relay["num_steps"]),
        "--out",
        str(folder / "checkpoint"),
    ]
    with once(f"{preset}_converted") as missing:
        if missing:
            convert.main(arguments)
    return folder / "checkpoint"


@functools.cache
def part(preset: str, name: str) -> tuple[dict, dict]:
    """Return (fields of the model, parameters) of a part of the converted checkpoint."""
    directory, description = cascades.read_cascade(converted(preset))
    return description.section(name).model, load_params(directory, description, (name,))[0][name]


def unet_sizes(preset: str) -> dict[str, Any]:
    fields = part(preset, "base")[0]
    return {
        name: tuple(fields[name]) if isinstance(fields[name], list) else fields[name]
        for name in UNET_SIZES
    }


@functools.cache
def unet(preset: str) -> tuple[UNet, dict, list[Entry]]:
    fields, params = part(preset, "base")
    return build_model(UNet, fields), params, unet_entries(**unet_sizes(preset))


@functools.cache
def vae(preset: str) -> tuple[Autoencoder, dict, list[Entry]]:
    fields, params = part(preset, "vae")
    model = build_model(Autoencoder, fields)
    return (
        model,
        params,
        vae_entries(
            channels=model.channels, channel_mult=model.channel_mult, res_blocks=model.res_blocks
        ),
    )


@functools.cache
def t5(preset: str) -> tuple[T5Encoder, dict]:
    fields, params = part(preset, "t5")
    return build_model(T5Encoder, fields), params


@functools.cache
def _executable(function, shapes, treedef, optimise):
    args = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    return jax.jit(function).lower(*args).compile(compiler_options=OPTIMISED if optimise else {})


def call(function, *args, optimise=False):
    """Return jit(function)(*args); this works under disabled jit too.

    `function` must be the same object in every call. A function that runs some hundred times is
    quicker with the backend's optimisations. They take three times as long to compile a UNet, which
    then runs in a sixth of the time.
    """
    args = jax.tree.map(jnp.asarray, args)
    leaves, treedef = jax.tree.flatten(args)
    with jax.disable_jit(False):
        return _executable(
            function, tuple((leaf.shape, leaf.dtype) for leaf in leaves), treedef, optimise
        )(*args)


@functools.cache
def unet_function(preset: str):
    model = unet(preset)[0]
    return lambda params, x, index, cond: model.apply({"params": params}, x, index, cond)


def with_w(preset: str, cond: dict) -> dict:
    """Add a zero w embedding if there is none.

    It adds nothing, and saves a second compilation of the model.
    """
    width = unet_sizes(preset)["w_dim"]
    return {"w": np.zeros((len(cond["text"]), width), np.float32), **cond} if width else cond


def network(preset: str):
    """Return F(params, x, index, cond), compiled for batches of BATCH."""

    def apply(params, x, index, cond):
        # NumPy cuts the batches: eager jax would compile every cut
        batch, size = jax.tree.map(np.asarray, (x, index, with_w(preset, cond))), len(x)
        cuts = [np.minimum(np.arange(i, i + BATCH), size - 1) for i in range(0, size, BATCH)]
        parts = [jax.tree.map(lambda value, rows=rows: value[rows], batch) for rows in cuts]
        # the samplers' shape, which runs some 300 times
        optimise = cond["text"].shape[1] == meta(preset)["preset_config"]["ctx_len"]
        return np.concatenate(
            [call(unet_function(preset), params, *part, optimise=optimise) for part in parts]
        )[:size]

    return apply


@functools.cache
def differentiable_network(preset: str):
    """Return `network` for jax.grad with respect to params outside jit.

    One compiled backward pass serves every loss.
    """

    def pull_back(params, x, index, cond, cotangent):
        return jax.vjp(lambda params: unet_function(preset)(params, x, index, cond), params)[1](
            cotangent
        )[0]

    def forward(*args):
        # which the samplers compile anyway
        return call(unet_function(preset), *args, optimise=True), args

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
    """Return scaled latents of a posterior sample, as both released stages use them."""
    mean, logvar = call(vae_function(preset, "encode"), vae(preset)[1], pixels)
    return LATENT_SCALE * posterior_sample(mean, logvar, noise)


def decode(preset: str, latents):
    return call(vae_function(preset, "decode"), vae(preset)[1], latents / LATENT_SCALE)


@functools.cache
def t5_function(preset: str):
    model = t5(preset)[0]
    return lambda params, *args: model.apply({"params": params}, *args)


def text_features(preset: str, *args):
    """Return T5's features of (tokens,) or (tokens, mask)."""
    return call(t5_function(preset), t5(preset)[1], *args)


class _ReachedError(Exception):
    """Carry out of a model what the module at which it stopped returned."""


def run_module(
    model: nn.Module, params: dict, path: tuple[str, ...], model_args: tuple, args: tuple
):
    """Return what the submodule at `path` makes of `args`.

    The model itself builds it, so it has the epsilon that the model gives it.
    """

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
    """Return the path of the module that has the tensors `torch`.* of a checkpoint."""
    paths = [entry.path for entry in entries if entry.torch.startswith(f"{torch}.")]
    shared = 0
    while len({path[: shared + 1] for path in paths}) == 1:
        shared += 1
    return paths[0][:shared]


def gradient_norms(preset: str, gradients: dict) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return gradients under their torch names, and norms in the order of named_params."""
    tensors = to_torch(gradients, unet(preset)[2])
    return tensors, np.array(
        [np.linalg.norm(tensors[name]) for name in meta(preset)["named_params"]], np.float32
    )
