"""Kernels of a frozen model in int8, quantised and dequantised by qwix, a layer at a time.

Each output channel has its scale. A matrix is in the computing type only while its layer runs: the
backward pass has the int8 values again and not what was made of them.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Int8(NamedTuple):
    """A kernel [..., out], or shapes or specs of one."""

    values: Any  # int8 [..., out]
    scale: Any  # float32 [1, ..., out], in a scanned module [depth, 1, ..., out]

    @property
    def shape(self) -> tuple[int, ...]:
        """The kernel's shape."""
        return self.values.shape

    @property
    def ndim(self) -> int:
        """How many axes the kernel has."""
        return self.values.ndim


def quantized(kernel: jax.Array, stacked: bool) -> Int8:
    """Return a kernel, or a stack of them, in int8, rounded to 255 steps of each output channel.

    Raises ImportError without qwix.
    """
    import qwix  # takes seconds, and only a base in int8 needs it

    axes = (0, kernel.ndim - 1) if stacked else (kernel.ndim - 1,)
    made = qwix.quantize(kernel.astype(jnp.float32), jnp.int8, channelwise_axes=axes)
    return Int8(made.qvalue, made.scale)


def plain(kernel: Any) -> jax.Array:
    """Return a kernel as an array: float32 of one in int8, another as it is."""
    if not isinstance(kernel, Int8):
        return kernel
    import qwix

    return qwix.dequantize(qwix.QArray(kernel.values, kernel.scale))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def frozen(layer: Callable, kernel: Int8, rest: Any, x: jax.Array) -> Any:
    """Return layer(the kernel as float32, rest, x), which is affine in x: a tree of arrays.

    rest: its other parameters. Only x has a gradient. For that the int8 values are kept, and
    nothing that was made of them.
    """
    wide, x = _when_needed(kernel, x)
    return layer(wide, rest, x)


def _forward(layer, kernel, rest, x):
    wide, same = _when_needed(kernel, x)
    return layer(wide, rest, same), (kernel, rest, jnp.zeros((0, *x.shape), x.dtype))


def _backward(layer, kept, cotangent):
    kernel, rest, like = kept
    wide, cotangent = _when_needed(kernel, cotangent)
    x = jnp.zeros(like.shape[1:], like.dtype)  # the gradient of what is affine needs no x
    _, back = jax.vjp(functools.partial(layer, wide, rest), x)
    return None, None, *back(cotangent)


def _when_needed(kernel: Int8, operand: Any) -> tuple[jax.Array, Any]:
    """Return (the kernel as float32, its operand), made once the operand is there.

    Of a loop over steps or microbatches the compiler would otherwise make all kernels before it,
    and hold them as float32.
    """
    kernel, operand = jax.lax.optimization_barrier((kernel, operand))
    return plain(kernel), operand


frozen.defvjp(_forward, _backward)
