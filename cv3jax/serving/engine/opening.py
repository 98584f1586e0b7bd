"""Open an engine: load the cascade, make its pools, compile, verify and measure its programs."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from cv3jax.adapters.applied import Applied
from cv3jax.cascade import pipeline, preview
from cv3jax.cascade.limits import wrong_tile
from cv3jax.cascade.memory import bytes_per_device, planned
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sizes import Size, drawn_sizes
from cv3jax.cascade.stage_network import Network, SamplerOptions, check_context, stage_network
from cv3jax.cascade.stage_sampler import check_rows
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.distributed.mesh import batch_ways
from cv3jax.serving.engine.adapters import ParamSets
from cv3jax.serving.engine.compiling import check_room, text_shapes
from cv3jax.serving.engine.lanes import Place
from cv3jax.serving.engine.offer import Offer
from cv3jax.serving.engine.pool import Store
from cv3jax.serving.engine.programs import Programs
from cv3jax.serving.engine.queue import Queue
from cv3jax.serving.engine.unit_engine import UnitEngine
from cv3jax.serving.engine.warming import Tell, warmed
from data_pipeline.io.errors import InputError, counted

BATCH, BATCH_CPU = 16, 8  # rows of a unit on each device; a CPU does no more a second with more
POOL = 8  # batches of rows that may be under way at once
TEXTS = 2  # batches of texts whose keys and values are kept


@dataclasses.dataclass(frozen=True)
class EngineSettings:
    """What an engine is compiled for.

    sizes: of final pictures; None is one relay pass over the base's trained size. batch: most rows
    of a unit, on all devices; None is 16 a device, or 8 on a CPU. tile: side in pixels of the tiles
    in which larger pictures are made, or 0. attention, dtype: as for `pipeline.load`. loras: the
    adapters that orders may name. lora_sets: of how many sets of adapters the parameters are kept.
    """

    sizes: tuple[Size | None, ...] = (None,)
    batch: int | None = None
    tile: int = 0
    mesh: Mesh | None = None
    attention: str = "auto"
    dtype: str | None = None
    loras: Mapping[str, Applied] = dataclasses.field(default_factory=dict)
    lora_sets: int = 4

    @property
    def ways(self) -> int:
        """The number of devices that share the rows of a unit."""
        return 1 if self.mesh is None else batch_ways(self.mesh)

    @property
    def rows(self) -> int:
        """The most rows of a unit. Raises InputError where the mesh cannot share them."""
        usual = BATCH_CPU if jax.default_backend() == "cpu" else BATCH
        rows = usual * self.ways if self.batch is None else self.batch
        if rows < 1 or rows % self.ways:
            raise InputError(
                f"batch {rows}: give a multiple of {self.ways}, the number of devices that share it"
            )
        return rows


def open_engine(checkpoint: str | Path, settings: EngineSettings, tell: Tell) -> UnitEngine:
    """Return an engine of the cascade at `checkpoint`, not started yet. Nothing compiles later.

    tell: called with a line for each thing that takes time.

    Raises InputError where there is no such cascade, it cannot draw the sizes, or the devices do
    not allow the mesh or the attention, or have too little memory.
    """
    _, description = cascades.read_cascade(checkpoint)
    chains, _ = _checked(description, settings), settings.rows
    plan = planned(description, (), settings.mesh, settings.attention)
    held = bytes_per_device(plan.params)
    check_room(f"the cascade's {held / 1e9:.2f} GB of parameters", held, settings.mesh)
    tell(f"loading {checkpoint}")
    cascade = pipeline.load(
        checkpoint, mesh=settings.mesh, attention=settings.attention, dtype=settings.dtype
    )
    return engine_of(cascade, settings, tell, chains)


def engine_of(
    cascade: Cascade,
    settings: EngineSettings,
    tell: Tell,
    chains: list[tuple[Size, ...]] | None = None,
) -> UnitEngine:
    """Return `open_engine` of a loaded cascade. chains: of `settings.sizes`, if known."""
    description, batch = cascade.description, settings.rows
    sets = ParamSets(cascade, settings.loras, settings.lora_sets)
    offer = Offer(description, chains or _checked(description, settings), sets.stages)
    for place in offer.places:
        _check_mesh(cascade, place, settings.tile)
    stages = sorted({place.stage for place in offer.places})
    networks = {stage: _network(cascade, stage, settings) for stage in stages}
    texts = text_shapes(cascade, networks, TEXTS * batch)
    programs = Programs(cascade, networks, _matrix(cascade), settings.tile)
    if settings.loras:
        what = f"{settings.lora_sets} sets of adapters"
        check_room(f"{what}, {sets.nbytes / 1e9:.2f} GB,", sets.nbytes, settings.mesh)
        tell(f"compiling what merges {counted(len(settings.loras), 'adapter')}")
        tell(f"{counted(sets.compile(), 'program')}; {what} take {sets.nbytes / 1e6:.1f} MB")
        sets.reserve()
    store = Store(cascade, programs, offer.places, POOL * batch, texts, sets)
    ready, found, estimates = warmed(store, description, batch, settings.ways, cascade.mesh, tell)
    lanes = {
        str(lane): {
            "rows": sorted(one.seconds),
            "differs": one.differs,
            "temporary_bytes": {f"{n}": ready[lane, n].temporary for n in sorted(one.seconds)},
        }
        for lane, one in found.items()
    }
    facts = {
        "sizes": [[list(size) for size in chain] for chain in offer.chains],
        "batch": batch,
        "under_way": store.count,
        "texts": TEXTS * batch,
        "devices": 1 if cascade.mesh is None else cascade.mesh.size,
        "platform": jax.default_backend(),
        "memory": {
            "parameters_bytes": bytes_per_device(cascade.params),
            "pools_bytes": store.nbytes(),
            "adapters_bytes": sets.nbytes,
            "largest_temporary_bytes": max(one.temporary for one in ready.values()),
        },
        "loras": sets.facts(),
        "lanes": lanes,
    }
    queue = Queue(offer.lanes, batch, store.count, TEXTS * batch, sets.stages)
    return UnitEngine(offer, store, queue, ready, estimates, cascade.tokenize, facts)


def _checked(description: CascadeDescription, settings: EngineSettings) -> list[tuple[Size, ...]]:
    """Return the chains of sizes. Raises InputError where the cascade cannot draw them."""
    for part in ("t5", "vae", "base"):
        if part not in description.parts:
            raise InputError(f"this cascade has no {part}, without which it draws nothing")
    for name, stage in description.stages.items():
        if settings.tile and (problem := wrong_tile(stage, settings.tile)):
            raise InputError(f"{name} stage: {problem}")
    chains = {drawn_sizes(description, size): None for size in settings.sizes}
    if not chains:
        raise InputError("an engine needs at least one size")
    return list(chains)


def _check_mesh(cascade: Cascade, place: Place, tile: int) -> None:
    rows = cascade.latent(place.size)[0]
    check_context(cascade.mesh, cascade.description, place.stage, rows, tile)
    if cascade.mesh is not None:
        check_rows(cascade.mesh, rows)


def _network(cascade: Cascade, name: str, settings: EngineSettings) -> Network:
    stage, attend = cascade.description.stages[name], cascade.attend[name]
    options = SamplerOptions(stage.steps, tile=settings.tile, mesh=cascade.mesh, attend=attend)
    return stage_network(stage, options)


def _matrix(cascade: Cascade) -> np.ndarray:
    """Return the matrix [z + 1, 3] of previews: the checkpoint's, or else fitted now."""
    if (stored := cascade.description.vae.preview) is not None:
        return np.asarray(stored, np.float32)

    def encode(pixels: np.ndarray) -> Any:
        shape = (len(pixels), *cascade.latent(Size(*pixels.shape[1:3])))
        return cascade.encode(pixels, cascade.put_images(np.zeros(shape, np.float32)))

    return preview.fit(encode, cascade.factor)
