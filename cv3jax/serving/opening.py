"""Open an engine: load the cascade, make its pools, compile, verify and measure its programs."""

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh

from cv3jax.cascade import pipeline, preview
from cv3jax.cascade.limits import wrong_tile
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sizes import Size, drawn_sizes
from cv3jax.cascade.stage_network import Network, SamplerOptions, check_context, stage_network
from cv3jax.cascade.stage_sampler import check_rows
from cv3jax.distributed.mesh import batch_ways
from cv3jax.serving.compiling import Compiled, compiled, shapes_down_from, text_shapes
from cv3jax.serving.engine import UnitEngine
from cv3jax.serving.estimates import Estimates
from cv3jax.serving.lanes import Lane, lanes_of, places_of
from cv3jax.serving.pool import Store
from cv3jax.serving.programs import Programs
from cv3jax.serving.queue import Queue
from cv3jax.serving.verify import Probes
from data_pipeline.io.errors import InputError

BATCH = 16
POOL = 8  # batches of rows that may be under way at once
TEXTS = 2  # batches of texts whose keys and values are kept

Tell = Callable[[str], None]  # takes a line that says what is being done


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """What an engine is compiled for.

    sizes: final pictures; None is one relay pass over the base's trained size. batch: most rows of
    a unit, on all devices. tile: side in pixels of the tiles in which larger pictures are made, or
    0. attention, dtype: as for `pipeline.load`.
    """

    sizes: tuple[Size | None, ...] = (None,)
    batch: int = BATCH
    tile: int = 0
    mesh: Mesh | None = None
    attention: str = "auto"
    dtype: str | None = None

    @property
    def ways(self) -> int:
        """The number of devices that share the rows of a unit."""
        return 1 if self.mesh is None else batch_ways(self.mesh)


def open_engine(checkpoint: str | Path, settings: EngineSettings, tell: Tell) -> UnitEngine:
    """Return an engine of the cascade at `checkpoint`, not started yet. Nothing compiles later.

    tell: called with a line for each thing that takes time.

    Raises InputError where the cascade cannot draw the sizes, the devices do not allow the mesh or
    the attention, or have too little memory.
    """
    if settings.batch < 1 or settings.batch % settings.ways:
        raise InputError(
            f"batch {settings.batch}: give a multiple of {settings.ways}, over which the mesh"
            " shares it"
        )
    tell(f"loading {checkpoint}")
    cascade = pipeline.load(
        checkpoint, mesh=settings.mesh, attention=settings.attention, dtype=settings.dtype
    )
    return engine_of(cascade, settings, tell)


def engine_of(cascade: Cascade, settings: EngineSettings, tell: Tell) -> UnitEngine:
    """Return `open_engine` of a loaded cascade."""
    description = cascade.description
    for part in ("t5", "base"):
        if part not in description.parts:
            raise InputError(f"this cascade has no {part}, without which it draws nothing")
    chains = [drawn_sizes(description, size) for size in settings.sizes]
    places = places_of(chains)
    for place in places:
        check_context(
            cascade.mesh, description, place.stage, cascade.latent(place.size)[0], settings.tile
        )
        if cascade.mesh is not None:
            check_rows(cascade.mesh, cascade.latent(place.size)[0])
    networks = _networks(cascade, {place.stage for place in places}, settings)
    batch, slots = settings.batch, POOL * settings.batch
    texts = text_shapes(cascade, networks, TEXTS * batch)
    programs = Programs(cascade, networks, _matrix(cascade), settings.tile)
    store = Store(cascade, programs, places, slots, texts)
    lanes = lanes_of(places)
    estimates, ready, facts = _verified(store, description, lanes, settings, slots, tell)
    shown = {
        "batch": batch,
        "sizes": [[list(size) for size in chain] for chain in chains],
        "memory": {
            "parameters_bytes": sum(_bytes(part) for part in cascade.params.values()),
            "pools_bytes": store.nbytes(),
            "largest_temporary_bytes": max(one.temporary for one in ready.values()),
        },
        "verified": facts,
    }
    return UnitEngine(
        description,
        store,
        ready,
        estimates,
        Queue(lanes, batch, slots, TEXTS * batch),
        cascade.tokenize,
        {"slots": slots, "batch": batch, "chains": chains, "shown": shown},
    )


def _networks(cascade: Cascade, stages: set[str], settings: EngineSettings) -> dict[str, Network]:
    networks = {}
    for name in sorted(stages):
        stage = cascade.description.stages[name]
        if settings.tile and (problem := wrong_tile(stage, settings.tile)):
            raise InputError(problem)
        options = SamplerOptions(
            stage.steps, tile=settings.tile, mesh=cascade.mesh, attend=cascade.attend[name]
        )
        networks[name] = stage_network(stage, options)
    return networks


def _matrix(cascade: Cascade) -> np.ndarray:
    """Return the matrix [z + 1, 3] of previews: the checkpoint's, or else fitted now."""
    if (stored := cascade.description.vae.preview) is not None:
        return np.asarray(stored, np.float32)

    def encode(pixels: np.ndarray) -> np.ndarray:
        shape = (len(pixels), *cascade.latent(Size(*pixels.shape[1:3])))
        return cascade.encode(pixels, np.zeros(shape, np.float32))

    return preview.fit(encode, cascade.factor)


def _verified(
    store: Store,
    description: Any,
    lanes: list[Lane],
    settings: EngineSettings,
    slots: int,
    tell: Tell,
) -> tuple[Estimates, dict[tuple[Lane, int], Compiled], list[dict[str, Any]]]:
    """Return (the seconds of units, the programs to use, what was found of each lane)."""
    probes = Probes(description, store, settings.batch, slots)
    estimates, ready, facts = Estimates(), {}, []
    tokens = description.t5.length
    for lane in lanes:
        began = time.monotonic()

        def compile_at(shape: int, lane: Lane = lane) -> Compiled:
            tell(f"compiling {lane} for {shape}")
            return compiled(lane, store, shape, tokens)

        shapes = shapes_down_from(settings.batch, settings.ways)
        verified, programs = probes.verify(lane, compile_at, shapes)
        for program in programs:
            estimates.measured(lane, program.shape, verified.used[program.shape])
            ready[lane, program.shape] = program
        facts.append(
            {"lane": str(lane), "rows": sorted(verified.used), "differing": verified.differing}
        )
        times = ", ".join(f"{1e3 * s:.1f} ms for {n}" for n, s in sorted(verified.used.items()))
        other = f"; {verified.differing} gives other bits" if verified.differing else ""
        tell(f"{lane}: {times}{other} ({time.monotonic() - began:.0f} s)")
    return estimates, ready, facts


def _bytes(tree: Any) -> int:
    import jax

    return sum(
        int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize
        for x in jax.tree.leaves(tree)
    )
