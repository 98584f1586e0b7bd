"""Count the FLOPs of a function from its jaxpr: matrix products and convolutions.

A multiply-add is two FLOPs. Nothing else counts as model FLOPs, because norms, activations and the
softmax are bound by memory. The count is of the whole function over all devices, as if there were
one, and of what is computed: dead code is left out, a scan's body counts once for each step, a
branch counts as its dearest side, and recomputation by remat counts where the jaxpr has it (and
also in `recomputed`). XLA's own count takes a loop's body once, whatever the loop's length.

A backward attention kernel computes the logits again, in the first of its five products. These
count as recomputed, so that the model FLOPs equal those of XLA's attention, which keeps its logits.
What a kernel computes on padding (225 keys as 256) counts in full in both.

A convolution has the closed form outputs × taps × channels. A tap that falls on padding counts, as
in every published count. A tap that falls on the holes of a dilated input, as in the gradient of a
strided convolution, does not.
"""

import math
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.extend import core
from jax.interpreters import partial_eval

from cv3jax.kernels.attention_cpu import RECOMPUTED

# the matrix products of cuDNN's attention kernels
KERNELS = {"dot_product_attention_fwd_wrapper": 2, "dot_product_attention_bwd_wrapper": 5}
# kernels of five products; the splash backward is a single kernel (cv3jax.kernels.attention)
BACKWARD = re.compile(r"dot_product_attention_bwd|splash_\w+_dkv")


class Flops(NamedTuple):
    """The FLOPs of a function.

    total: with recomputation. recomputed: the part of it that remat and attention kernels compute
    again. kinds: the total by primitive.
    """

    total: int
    recomputed: int
    kinds: dict[str, int]

    @property
    def model(self) -> int:
        """The FLOPs without recomputation, which MFU counts as useful."""
        return self.total - self.recomputed


def count(function: Callable, *args) -> Flops:
    """Return the FLOPs of `function(*args)`; the arguments may be ShapeDtypeStructs.

    Raises ValueError as `count_jaxpr` does.
    """
    return count_jaxpr(jax.make_jaxpr(function)(*args))


def count_jaxpr(closed: core.ClosedJaxpr) -> Flops:
    """Return the FLOPs of a jaxpr.

    Raises ValueError on a loop with products whose length is known only when it runs.
    """
    live, _ = partial_eval.dce_jaxpr(closed.jaxpr, [True] * len(closed.jaxpr.outvars))
    found = _count(live, False)
    kinds: Counter = Counter()
    for (kind, _), flops in found.items():
        kinds[kind] += flops
    return Flops(
        sum(found.values()),
        sum(flops for (_, again), flops in found.items() if again),
        dict(sorted(kinds.items())),
    )


def _count(jaxpr: core.Jaxpr, again: bool) -> Counter:
    """Return {(primitive, whether recomputed): FLOPs}."""
    found: Counter = Counter()
    for eqn in jaxpr.eqns:
        repeated = again or RECOMPUTED in str(eqn.source_info.name_stack)
        for key, flops in _count_eqn(eqn, repeated).items():
            found[key] += flops
    return found


def _count_eqn(eqn: core.JaxprEqn, again: bool) -> Counter:
    name, params = eqn.primitive.name, eqn.params
    if name == "dot_general":
        return Counter({(name, again): dot_flops(eqn)})
    if name == "conv_general_dilated":
        return Counter({(name, again): conv_flops(eqn)})
    if name in KERNELS:
        return _kernel(name, KERNELS[name] * attention_flops(eqn), again)
    if name == "pallas_call":
        return _kernel(params.get("name") or "", pallas_flops(eqn), again)
    bodies = [body for jaxpr in core.jaxprs_in_params(params) if (body := _count(jaxpr, again))]
    if not bodies:
        return Counter()
    if name == "cond":
        return max(bodies, key=lambda body: sum(body.values()))
    if name == "while":
        raise ValueError(
            "the FLOPs of a while loop with matrix products cannot be counted, because its number"
            f" of iterations is not fixed; use a scan ({eqn.source_info.name_stack})"
        )
    if len(bodies) > 1:
        raise ValueError(
            f"the FLOPs of {name} cannot be counted, because more than one of its branches has"
            f" matrix products ({eqn.source_info.name_stack})"
        )
    return _times(bodies[0], _repeats(eqn))


def _kernel(name: str, flops: int, again: bool) -> Counter:
    logits = flops // 5 if BACKWARD.match(name) else 0
    return Counter({("attention kernel", again): flops - logits}) + Counter(
        {("attention kernel", True): logits}
    )


def _repeats(eqn: core.JaxprEqn) -> int:
    """Return how often the body of a call runs, over all devices."""
    if eqn.primitive.name == "scan":
        return eqn.params["length"]
    if eqn.primitive.name == "shard_map":  # its shapes are those of one device
        return math.prod(eqn.params["mesh"].shape[axis] for axis in eqn.params["newly_manual_axes"])
    return 1


def _times(found: Counter, factor: int) -> Counter:
    return Counter({key: flops * factor for key, flops in found.items()})


def dot_flops(eqn: core.JaxprEqn) -> int:
    """Return 2 · batch · rows · columns · depth."""
    (contracted, _), _ = eqn.params["dimension_numbers"]
    return (
        2
        * math.prod(eqn.outvars[0].aval.shape)
        * math.prod(eqn.invars[0].aval.shape[axis] for axis in contracted)
    )


def conv_flops(eqn: core.JaxprEqn) -> int:
    """Return the FLOPs of a convolution.

    They are 2 · batch · output channels · input channels per group · the pairs of output position
    and tap, counted axis by axis.
    """
    params, numbers = eqn.params, eqn.params["dimension_numbers"]
    kernel, out = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
    pairs = 1
    for axis, (place, tap) in enumerate(
        zip(numbers.out_spec[2:], numbers.rhs_spec[2:], strict=True)
    ):
        stride, holes, spread = (
            params["window_strides"][axis],
            params["lhs_dilation"][axis],
            params["rhs_dilation"][axis],
        )
        # where each tap of each output reads, counted from the first element of the dilated input:
        # only every `holes`th element is a value
        reads = (
            np.add.outer(np.arange(out[place]) * stride, np.arange(kernel[tap]) * spread)
            - params["padding"][axis][0]
        )
        pairs *= int(np.count_nonzero(reads % holes == 0))
    return (
        2
        * out[numbers.out_spec[0]]
        * out[numbers.out_spec[1]]
        * kernel[numbers.rhs_spec[1]]
        * pairs
    )


def attention_flops(eqn: core.JaxprEqn) -> int:
    """Return the FLOPs of one matrix product of attention.

    They are 2 · queries · keys · width over batch and heads; a mask saves nothing.
    """
    query, key = (eqn.invars[i].aval.shape for i in (0, 1))
    keys = key[2] if eqn.params["layout"] == 1 else key[1]  # 1: [B, N, T, H], else [B, T, N, H]
    return 2 * math.prod(query) * keys


def pallas_flops(eqn: core.JaxprEqn) -> int:
    """Return a kernel's own estimate, or where it has none, its body once per point of the grid."""
    if eqn.params.get("cost_estimate") is not None:
        return eqn.params["cost_estimate"].flops
    grid = eqn.params["grid_mapping"].grid
    body = sum(_count(eqn.params["jaxpr"], False).values())
    if body and not all(isinstance(size, int) for size in grid):
        raise ValueError(
            f"kernel {eqn.params.get('name')}: its FLOPs cannot be counted, because its grid is not"
            " fixed; give it a cost_estimate"
        )
    return body * math.prod(grid) if body else 0
