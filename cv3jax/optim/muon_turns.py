"""Muon that orthogonalises less often: matrices take turns, and maps are applied several times.

For small batches muon's products are a large part of a step. Two things make them fewer. Each
matrix moves in one of `turns` updates, and so many times as far. And a matrix's orthogonal map,
which depends on its momentum alone and so changes slowly, is computed anew at every `renew`-th of
its turns, and the old one is applied in between. The chains' shares are spread evenly, so that all
updates take about as long.
"""

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from cv3jax.optim import muon


class Turns(NamedTuple):
    """What muon keeps beside the momentum where matrices take turns or keep their maps."""

    count: jax.Array  # int32, updates done
    maps: Any  # like the parameters, float32 [K, n, n]; None where every turn computes them


class Work(NamedTuple):
    """The chains of a tree's matrices, and when each has its turn."""

    values: list[jax.Array]  # in the parameters' shapes
    shapes: list[tuple[int, int, int]]  # of `matrix_shape`
    members: list[list[int]]  # of `muon.chains`
    phases: list[int]  # of each chain, below turns · renew

    @classmethod
    def of(cls, tree: Any, parts: int) -> tuple["Work", Any]:
        """Return (what is to be done for a tree, spread over so many updates, its structure)."""
        leaves, structure = jax.tree.flatten_with_path(tree)
        shapes = [muon.matrix_shape(path, value) for path, value in leaves]
        tall = [(k, max(m, n), min(m, n)) for k, m, n in shapes]
        members = muon.chains(tall)
        work = cls([value for _, value in leaves], shapes, members, spread(members, tall, parts))
        return work, structure


def spread(members: list[list[int]], shapes: list[tuple[int, int, int]], parts: int) -> list[int]:
    """Return each chain's phase, below `parts`: the longest first, each where there is least.

    members: of `muon.chains(shapes)`, where shapes are [K, m, n], m ≥ n.
    """
    work = [
        sum(k * (2 * m * n**2 + 8 * n**3) for k, m, n in (shapes[i] for i in chain))
        for chain in members
    ]
    loads, phases = [0] * parts, [0] * len(members)
    for i in sorted(range(len(members)), key=lambda i: -work[i]):
        phases[i] = loads.index(min(loads))
        loads[phases[i]] += work[i]
    return phases


def scale_by_muon(
    turns: int = 1, renew: int = 1, beta: float = 0.95
) -> optax.GradientTransformation:
    """Return Nesterov momentum, orthogonalised in turns.

    Leaves are matrices (`muon.matrix_shape`); vectors need another optimizer. The momentum is that
    of every gradient, also of those in whose update a matrix does not move. With one turn and maps
    that are always new it is `muon.scale_by_muon`, whose state older checkpoints have.
    """
    if turns == renew == 1:
        return muon.scale_by_muon(beta)

    def init(params):
        work, structure = Work.of(params, turns * renew)
        maps = None
        if renew > 1:
            sides = [(k, min(m, n)) for k, m, n in work.shapes]
            maps = structure.unflatten([jnp.zeros((k, n, n), jnp.float32) for k, n in sides])
        return Turns(jnp.zeros((), jnp.int32), maps)

    def update(updates, state, params=None):
        del params
        work, structure = Work.of(updates, turns * renew)
        maps = [] if state.maps is None else jax.tree.leaves(state.maps)

        def part(turn, values, maps, count):
            done = work._replace(values=values)
            return moved(done, maps, count, turn=turn, turns=turns, renew=renew)

        parts = [functools.partial(part, turn) for turn in range(turns)]
        given = (work.values, maps, state.count)
        if turns == 1:
            out, maps = parts[0](*given)
        else:
            out, maps = jax.lax.switch(state.count % turns, parts, *given)
        kept = None if state.maps is None else structure.unflatten(maps)
        return structure.unflatten(out), Turns(optax.safe_increment(state.count), kept)

    return optax.chain(optax.trace(beta, nesterov=True), optax.GradientTransformation(init, update))


def moved(
    work: Work, maps: list[jax.Array], count: jax.Array, *, turn: int, turns: int, renew: int
) -> tuple[list[jax.Array], list[jax.Array]]:
    """Return (the updates of the matrices whose turn it is and zeros for the others, the maps)."""
    out, maps = [jnp.zeros_like(x) for x in work.values], list(maps)
    for chain, phase in zip(work.members, work.phases, strict=True):
        if phase % turns != turn:
            continue
        matrices = [muon.tall(work.values[i], work.shapes[i]) for i in chain]
        if renew == 1:
            ours = computed(matrices)
        else:
            # in their first turn all maps are computed
            due = ((count // turns) % renew == phase // turns) | (count < turns)
            old = [maps[i] for i in chain]
            ours = jax.lax.cond(due, lambda x, old: computed(x), lambda x, old: old, matrices, old)
        for i, x, q in zip(chain, matrices, ours, strict=True):
            if renew > 1:
                maps[i] = q
            size = turns * 0.2 * max(x.shape[1:]) ** 0.5
            y = x @ q if renew == 1 else bounded(x @ q)
            out[i] = muon.back(size * y, work.shapes[i], work.values[i])
    return out, maps


def computed(matrices: list[jax.Array]) -> list[jax.Array]:
    """Return the orthogonal map of each leaf's matrices [K, m, n], computed in one chain."""
    ends = [sum(len(x) for x in matrices[: i + 1]) for i in range(len(matrices) - 1)]
    return jnp.split(muon.chain_maps(matrices), ends)


def bounded(x: jax.Array) -> jax.Array:
    """Return matrices [K, m, n], each scaled down to the norm √n of an orthogonal one.

    A map of another momentum would make a new or larger one too large.
    """
    square = jnp.sum(jnp.square(x), (1, 2), keepdims=True)
    return x * jnp.minimum(1.0, jax.lax.rsqrt(jnp.maximum(square, 1e-30) / x.shape[-1]))
