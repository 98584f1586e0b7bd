"""Which parameters a recipe means: patterns of paths, and the modules of gradient norms.

A path is that of a parameter in its tree, with "/" between: mid_0_transformer/blocks/ff_in/kernel.
"""

import fnmatch
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from cv3jax.distributed.partitioning import names
from data_pipeline.io.errors import InputError

FREEZE, RATES = "config.optim.freeze", "config.optim.rates"
EMBEDDINGS = ("time", "size", "w")  # what the names of their layers begin with
_RESOLUTION = re.compile(r"(down|up)_\d+|mid(?=_|$)")


def fits(pattern: str, path: tuple[str, ...]) -> bool:
    """Return whether a pattern means the parameter at `path`: it fits the path, or how it begins.

    "*" stands for any characters, "/" included, "?" for one, and [ab] for one of some.
    """
    beginnings = ("/".join(path[:end]) for end in range(1, len(path) + 1))
    return any(fnmatch.fnmatchcase(one, pattern) for one in beginnings)


def frozen(patterns: tuple[str, ...], params: Any) -> Any:
    """Return a tree of whether each parameter is frozen.

    Raises InputError where a pattern fits no parameter, or all are frozen.
    """
    check(FREEZE, patterns, params)
    held = jax.tree.map_with_path(
        lambda path, _: any(fits(pattern, names(path)) for pattern in patterns), params
    )
    if patterns and all(jax.tree.leaves(held)):
        raise InputError(
            f"{FREEZE} = {','.join(patterns)}: freezes every parameter; leave some to train"
        )
    return held


def rates(given: tuple[tuple[str, float], ...], params: Any) -> Any:
    """Return a tree of the factor on each parameter's learning rate; the first pattern counts.

    Raises InputError where a pattern fits no parameter.
    """
    check(RATES, tuple(pattern for pattern, _ in given), params)

    def factor(path: tuple, _: Any) -> float:
        return next((rate for pattern, rate in given if fits(pattern, names(path))), 1.0)

    return jax.tree.map_with_path(factor, params)


def check(field: str, patterns: tuple[str, ...], params: Any) -> None:
    """Raise InputError where a pattern fits none of the parameters; the message lists modules."""
    paths = [names(path) for path, _ in jax.tree.leaves_with_path(params)]
    for pattern in patterns:
        if not any(fits(pattern, path) for path in paths):
            known = ", ".join(dict.fromkeys(path[0] for path in paths))
            raise InputError(
                f"{field}: {pattern!r} fits no parameter; there are {known}, and what is in them,"
                f" such as {'/'.join(max(paths, key=len))}"
            )


def without(patterns: tuple[str, ...], inner: optax.GradientTransformation) -> Any:
    """Return `inner` for the parameters that are not frozen; the others have no statistics."""
    if not patterns:
        return inner

    def labels(params: Any) -> Any:
        return jax.tree.map(lambda held: "frozen" if held else "trained", frozen(patterns, params))

    return optax.partition({"trained": inner, "frozen": optax.set_to_zero()}, labels)


def scaled(given: tuple[tuple[str, float], ...], inner: optax.GradientTransformation) -> Any:
    """Return `inner` with the updates of some parameters multiplied; its state is the same."""
    if not given:
        return inner

    def init(params: Any) -> Any:
        _ = rates(given, params)  # refuses a pattern that fits nothing
        return inner.init(params)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        factors = rates(given, updates)
        updates, state = inner.update(updates, state, params)
        return jax.tree.map(lambda x, factor: x * factor, updates, factors), state

    return optax.GradientTransformation(init, update)


def module(path: tuple[str, ...]) -> str:
    """Return the module of a parameter, for norms by module.

    Of a UNet: in, embed, down_0, …, mid, up_0, …, out. Of another network: the name of its part,
    and the same inside of it, such as encoder_down_0.
    """
    first, rest = path[0], path[1:]
    if found := _RESOLUTION.match(first):
        return found[0]
    if first == "conv_in":
        return "in"
    if first in ("norm_out", "conv_final"):
        return "out"
    if first.partition("_")[0] in EMBEDDINGS:
        return "embed"
    return f"{first}_{module(rest)}" if len(rest) > 1 else first


def module_norms(grads: Any) -> dict[str, jax.Array]:
    """Return "grad_norm/MODULE" → the norm of a module's gradients, float32 scalars."""
    squares: dict[str, list[jax.Array]] = {}
    for path, leaf in jax.tree.leaves_with_path(grads):
        squares.setdefault(module(names(path)), []).append(jnp.sum(jnp.square(leaf)))
    return {f"grad_norm/{name}": jnp.sqrt(sum(each)) for name, each in squares.items()}
