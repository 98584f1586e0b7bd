"""Low-rank adapters of a model's matrices (LoRA, arXiv 2106.09685): beside the kernels, or merged.

An adapter tree mirrors a model's parameters. Where these have a `kernel`, it has `lora_down`
[in, r] or [kh, kw, in, r], `lora_up` [r, out] or [1, 1, r, out], `lora_scale` [] and perhaps
`lora_magnitude` [out] (DoRA, arXiv 2402.09353). In a scanned module all of these have its leading
axis. The matrix is then W + scale · down · up; with a magnitude, its columns have that length.
"""

import contextlib
import functools
import math
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.models.int8 import Int8, frozen, plain
from cv3jax.models.transformer import GatedDense

DOWN, UP, SCALE, MAGNITUDE = "lora_down", "lora_up", "lora_scale", "lora_magnitude"
LAYER = "lora_layer"  # a number of each layer, by which dropout draws; only in training
LEAVES = (DOWN, UP, SCALE, MAGNITUDE, LAYER)
NO_DORA = -1.0  # a magnitude that no column has: of a layer without one in a stack
SCANNED = "blocks"  # modules with a leading axis
KINDS = (nn.Dense, nn.Conv, GatedDense)


class Dropout(NamedTuple):
    """Dropout of what the adapters read: the share of zeros, and one key per row of a batch."""

    rate: float
    keys: jax.Array  # [B]


def kernels(params: Any, within: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return path with slashes → kernel of everything that an adapter can change.

    params: arrays or shapes.
    """
    found = {"/".join(within): params["kernel"]} if "kernel" in params else {}
    for name, inner in params.items():
        if isinstance(inner, dict):
            found |= kernels(inner, (*within, name))
    return found


def joined(params: Any, *trees: Any) -> Any:
    """Return parameters with the leaves of adapter trees beside the kernels.

    All of them may be arrays, shapes or specs. Raises ValueError where an adapter has no kernel.
    """
    for tree in trees:
        params = _join(params, tree, ())
    return params


def _join(params: Any, tree: Any, within: tuple[str, ...]) -> Any:
    made = dict(params)
    for name, inner in tree.items():
        if not isinstance(inner, dict):
            if "kernel" not in params:
                raise ValueError(f"the model has no matrix {'/'.join(within)}")
            made[name] = inner
        elif isinstance(params.get(name), dict):
            made[name] = _join(params[name], inner, (*within, name))
        else:
            raise ValueError(f"the model has no module {'/'.join((*within, name))}")
    return made


def merged(params: Any, *trees: Any) -> Any:
    """Return parameters with the adapters of the trees added to the kernels, in the kernels' types.

    The arithmetic is float32. Kernels without an adapter are returned as they are. The trees have
    different leaves, such as what is trained and what is not. Raises ValueError as `joined` does.
    """
    return _fold(joined(params, *trees))


def _fold(params: Any) -> Any:
    if not isinstance(params, dict):
        return params
    made = {name: _fold(x) for name, x in params.items() if name not in LEAVES}
    return {**made, "kernel": kernel_of(params)} if DOWN in params else made


def with_adapter(kernel: jax.Array, adapter: Mapping[str, Any]) -> jax.Array:
    """Return a kernel, or a stack of them, with its adapter in it, in the kernel's type.

    adapter: the leaves of the tree in the kernel's place. The arithmetic is float32.
    """
    down, up, scale = (adapter[name].astype(jnp.float32) for name in (DOWN, UP, SCALE))
    change = jnp.matmul(down, up, precision="highest")
    made = kernel.astype(jnp.float32) + _spread(scale, kernel.ndim) * change
    if MAGNITUDE in adapter:
        stacked = scale.ndim
        axes = tuple(range(stacked, kernel.ndim - 1))
        length = jnp.sqrt(jnp.sum(made**2, axes, keepdims=True))
        made *= _to_length(adapter[MAGNITUDE].reshape(length.shape), length)
    return made.astype(kernel.dtype)


def _to_length(magnitude: jax.Array, length: jax.Array) -> jax.Array:
    """Return magnitude / length, float32; 1 for a column of zeros, and where NO_DORA says so."""
    zero = length == 0
    gain = magnitude.astype(jnp.float32) / jnp.where(zero, 1, length)
    return jnp.where(zero | (magnitude == NO_DORA), 1, gain)


def kernel_of(module: Mapping[str, Any]) -> jax.Array:
    """Return a module's kernel, with the adapter that may be beside it; float32 of int8."""
    kernel = plain(module["kernel"])
    return with_adapter(kernel, module) if DOWN in module else kernel


def _spread(scale: jax.Array, ndim: int) -> jax.Array:
    """Return the scales [] or [depth] for a kernel of so many axes."""
    return scale.reshape(scale.shape + (1,) * (ndim - scale.ndim))


@contextlib.contextmanager
def adapting(dropout: Dropout | None = None) -> Iterator[None]:
    """Let the models that are applied inside the block use the adapters beside their kernels.

    Their kernels may be int8 (`cv3jax.models.int8`). Enter it where a function is traced: inside
    the function that is jitted. A model whose parameters have neither computes as always.
    `UNet.text_kv` reads kernels itself, with their adapters.
    """
    with nn.intercept_methods(functools.partial(_adapt, dropout)):
        yield


def _adapt(
    dropout: Dropout | None,
    call: Callable,
    args: tuple,
    kwargs: dict,
    context: nn.module.InterceptorContext,
) -> Any:
    """Return what a module's call returns, with its adapter."""
    module = context.module
    if not (isinstance(module, KINDS) and context.method_name == "__call__"):
        return call(*args, **kwargs)
    mine = module.variables.get("params", {})
    if isinstance(mine.get("kernel"), Int8):
        call = functools.partial(_of_int8, module, mine)
    if DOWN not in mine:
        return call(*args, **kwargs)
    dtype, (x,) = module.dtype, args
    made = call(x)
    if dropout is not None and dropout.rate:
        x = _drop(dropout, mine[LAYER], x)
    low = _project(module, x.astype(dtype), mine[DOWN].astype(dtype))
    low = (low.astype(jnp.float32) * mine[SCALE]).astype(dtype)
    up = mine[UP].reshape(mine[UP].shape[-2:]).astype(dtype)
    if MAGNITUDE not in mine:
        if isinstance(module, GatedDense):  # by halves, as the module does
            halves = jnp.split(up, 2, axis=1)
            return tuple(one + low @ half for one, half in zip(made, halves, strict=True))
        return made + low @ up
    gain, bias = _gain(mine), mine.get("bias", jnp.zeros(up.shape[-1], jnp.float32))
    if isinstance(module, GatedDense):
        parts = zip(
            made, *(jnp.split(value, 2, axis=-1) for value in (up, gain, bias)), strict=True
        )
        return tuple(_rescaled(one, low @ half, g, b) for one, half, g, b in parts)
    return _rescaled(made, low @ up, gain, bias)


def _of_int8(module: nn.Module, mine: Mapping[str, Any], x: jax.Array) -> Any:
    """Return what a module of a frozen kernel in int8 returns, without its adapter."""
    alone = module.clone(parent=None)

    def layer(kernel, rest, x):
        return alone.apply({"params": {"kernel": kernel, **rest}}, x)

    rest = {name: value for name, value in mine.items() if name not in ("kernel", *LEAVES)}
    return frozen(layer, mine["kernel"], rest, x)


def _project(module: nn.Module, x: jax.Array, down: jax.Array) -> jax.Array:
    """Return x by the matrix `down`, of whose shape and kind the module's kernel is."""
    if not isinstance(module, nn.Conv):
        return x @ down
    padding = module.padding
    if isinstance(padding, int):
        padding = ((padding, padding),) * (x.ndim - 2)
    strides = module.strides if module.strides is not None else 1
    strides = (strides,) * (x.ndim - 2) if isinstance(strides, int) else strides
    return jax.lax.conv_general_dilated(
        x, down, strides, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def _gain(mine: dict) -> jax.Array:
    """Return magnitude / ‖W + scale · down · up‖ by columns, float32 [out].

    The norm is no function of the parameters for the gradient (paper §4.3). It is computed from
    the factors, so that no second matrix is held.
    """
    kernel, down, up = (
        jax.lax.stop_gradient(value).astype(jnp.float32)
        for value in (plain(mine["kernel"]), mine[DOWN], mine[UP])
    )
    kernel, down, up = (x.reshape(-1, x.shape[-1]) for x in (kernel, down, up))
    scale = mine[SCALE]
    squared = (
        jnp.sum(kernel**2, 0)
        + 2 * scale * jnp.sum(up * (down.T @ kernel), 0)
        + scale**2 * jnp.sum(up * ((down.T @ down) @ up), 0)
    )
    length = jnp.sqrt(jnp.maximum(squared, 0))
    return _to_length(mine[MAGNITUDE], length)


def _rescaled(made: jax.Array, change: jax.Array, gain: jax.Array, bias: jax.Array) -> jax.Array:
    """Return gain · (made - bias + change) + bias, exactly `made` at a gain of 1 and no change."""
    wide = made.astype(jnp.float32)
    return (wide + (gain - 1) * (wide - bias) + gain * change).astype(made.dtype)


def _drop(dropout: Dropout, layer: jax.Array, x: jax.Array) -> jax.Array:
    """Return x [B, ...] with a share of zeros, and the rest enlarged. A row draws by its own key.

    So neither devices nor microbatches change it.
    """

    def keep(key):
        return jax.random.bernoulli(jax.random.fold_in(key, layer), 1 - dropout.rate, x.shape[1:])

    kept = jax.vmap(keep)(dropout.keys)
    return jnp.where(kept, x / (1 - dropout.rate), jnp.zeros((), x.dtype))


def fresh(params: Any, paths: Iterable[str], rank: int, key: jax.Array, *, dora: bool) -> Any:
    """Return what training changes of new adapters: float32 down, up and perhaps magnitude.

    paths: those of `kernels` that get one. down is uniform in ±1/√fan_in, as PEFT and kohya draw
    it; up is 0, and a magnitude is the length of the kernel's column. So the model is unchanged.
    The draw of a kernel depends on its path and the key alone.
    """
    known, tree = kernels(params), {}
    for path in paths:
        kernel, stack = known[path], _stack(path, known[path])
        *fan, out = kernel.shape[len(stack) :]  # [in], or [kh, kw, in] of a convolution
        bound = math.prod(fan) ** -0.5
        one = {
            DOWN: jax.random.uniform(
                jax.random.fold_in(key, _number(path)),
                (*stack, *fan, rank),
                jnp.float32,
                -bound,
                bound,
            ),
            UP: jnp.zeros((*stack, *(1,) * (len(fan) - 1), rank, out), jnp.float32),
        }
        if dora:
            axes = tuple(range(len(stack), kernel.ndim - 1))
            one[MAGNITUDE] = jnp.sqrt(jnp.sum(plain(kernel).astype(jnp.float32) ** 2, axes))
        _put(tree, path, one)
    return tree


def constants(params: Any, paths: Iterable[str], scale: float) -> Any:
    """Return the leaves of new adapters that training does not change, as NumPy arrays.

    They are `lora_scale` float32 and `lora_layer` uint32, a number of each layer, both [] or
    [depth]. params: arrays or shapes.
    """
    known, tree = kernels(params), {}
    for path in paths:
        stack = _stack(path, known[path])
        numbers = np.uint32(_number(path)) + np.arange(math.prod(stack), dtype=np.uint32)
        one = {SCALE: np.full(stack, scale, np.float32), LAYER: numbers.reshape(stack)}
        _put(tree, path, one)
    return tree


def _stack(path: str, kernel: Any) -> tuple[int, ...]:
    """Return (depth,) of a kernel in a scanned module, () of another."""
    return tuple(kernel.shape[:1]) if SCANNED in path.split("/") else ()


def _number(path: str) -> int:
    return zlib.crc32(path.encode())


def _put(tree: dict, path: str, leaves: dict) -> None:
    for name in path.split("/"):
        tree = tree.setdefault(name, {})
    tree.update(leaves)
