"""The jitted functions of the lanes: each does one unit, for rows that have nothing in common.

Latents, and the keys and values of texts, stay on the devices in pools. A unit gathers its rows
from a pool, computes, and scatters them back, so that which rows share a unit changes no shape. A
row that fills up a batch is gathered from anywhere, and its result is dropped. Everything that
differs between rows (time, noise levels, η, guidance, key) is an argument for each row.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.coders import decoded
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sizes import Size
from cv3jax.cascade.stage_network import Network
from cv3jax.cascade.stage_sampler import fold, images_sharding
from cv3jax.diffusion import sampler
from cv3jax.diffusion.conditioning import normals
from cv3jax.diffusion.pixels import to_pixels, to_uint8, up2
from cv3jax.diffusion.sampler import Point, RowStep
from cv3jax.distributed.mesh import batch_sharding, replicated
from cv3jax.serving.engine.fingerprint import fingerprint
from cv3jax.serving.engine.lanes import DECODE, START, STEP, TEXT, Lane

# the columns of `Packed.slots`
READ, WRITE, READ_TEXT, WRITE_TEXT = range(4)


class Packed(NamedTuple):
    """What a unit takes from the host: one row for each row of the unit, or of its filling."""

    slots: Any  # int32 [S, 4]; a row is written to a slot beyond the last one to drop it
    integers: Any  # int32 [S, rows.INTEGERS]
    numbers: Any  # float32 [S, rows.NUMBERS]
    given: Any = None  # tokens int32 [S, L], or pictures uint8 [S, H, W, 3]


class Program(NamedTuple):
    """A lane's function: jitted (params, changed, kept, Packed) → (changed, made).

    `changed` are the arrays of pools that it writes, which it consumes; `kept` those it reads.
    `made` is (), or has previews or pictures uint8 [S, ...] first.
    """

    jitted: Any
    parts: tuple[str, ...]  # of the cascade, in the order of `params`
    writes: tuple[str, ...]  # names of arrays of the place's pool, or of all texts
    reads: tuple[str, ...]


class Batch(NamedTuple):
    """`Packed` by columns, inside a program."""

    keys: jax.Array  # [S], those that `Cascade.generate` has for this pass
    low_keys: jax.Array  # [S], of the posterior sample that a relay pass starts from
    step: RowStep
    w: jax.Array


def unpacked(packed: Packed, relay: bool) -> Batch:
    """Return the columns of `packed`."""
    t, s, number, seed, relay_pass = packed.integers.T
    seeds = jax.lax.bitcast_convert_type(seed, jnp.uint32)
    keys = low_keys = jax.vmap(jax.random.key)(seeds)
    if relay:
        numbered = jax.vmap(jax.random.fold_in)
        keys, low_keys = numbered(keys, 2 * relay_pass + 1), numbered(keys, 2 * relay_pass)
    *levels, eta, w = packed.numbers.T
    step = RowStep(Point(t, s, *levels), number, fold(keys, 1), eta)
    return Batch(keys, low_keys, step, w)


class Programs:
    """Makes the program of each lane of a cascade.

    networks: of the stages. matrix: of the previews [z + 1, 3], see `cascade.preview`. tile: side
    in pixels of the tiles in which larger pictures are predicted, encoded and decoded, or 0.
    """

    def __init__(
        self, cascade: Cascade, networks: dict[str, Network], matrix: np.ndarray, tile: int = 0
    ):
        """Keep what programs are made of."""
        self._cascade, self._networks, self._matrix = cascade, networks, matrix
        self._tile = tile

    def of(self, lane: Lane) -> Program:
        """Return the program of a lane."""
        relay = lane.stage == "relay"
        if lane.kind == TEXT:
            stages = tuple(self._networks)
            return self._program(self._text(stages), ("t5", *stages), stages, ())
        if lane.kind == START:
            if relay:
                return self._program(self._start_relay(lane.size), ("vae",), ("x", "m", "low"), ())
            return self._program(self._start_base(lane.size), (), ("x", "m"), ())
        if lane.kind == STEP:
            low = ("low",) if relay else ()
            step = self._step(lane.stage)
            return self._program(step, (lane.stage,), ("x", "m"), (*low, lane.stage))
        assert lane.kind == DECODE
        return self._program(self._decode(lane.size), ("vae",), (), ("x",))

    def _program(
        self, function: Callable, parts: tuple, writes: tuple[str, ...], reads: tuple[str, ...]
    ) -> Program:
        def run(params, changed, kept, packed):
            made, out = function(params, changed, kept, packed)
            return jax.tree.map(lambda x, like: x.astype(like.dtype), made, changed), out

        where = {name: self.pool_sharding(name) for name in writes}
        jitted = jax.jit(run, donate_argnums=1, out_shardings=(where, None))
        return Program(jitted, parts, writes, reads)

    def pool_sharding(self, name: str) -> Any:
        """Return where the array of a pool is: on every device, the heads of a text over tensor."""
        mesh = self._cascade.mesh
        if mesh is None:
            return SingleDeviceSharding(jax.local_devices()[0])
        rows = name in self._networks and self._networks[name].text_sharding
        return NamedSharding(mesh, P(None, None, *rows.spec[2:])) if rows else replicated(mesh)

    def _text(self, stages: tuple[str, ...]) -> Callable:
        def read(params, changed, kept, packed):
            features = self._cascade.encode_text(params[0], self._by_rows(packed.given))
            where = packed.slots[:, WRITE_TEXT]
            made = {}
            for stage, own in zip(stages, params[1:], strict=True):
                read = self._networks[stage].read_text(own, features)
                made[stage] = jax.tree.map(
                    lambda pool, rows: pool.at[:, where].set(rows, mode="drop"),
                    changed[stage],
                    read,
                )
            return made, ()

        return read

    def _start_base(self, size: Size) -> Callable:
        shape = self._cascade.latent(size)

        def start(params, changed, kept, packed):
            batch = unpacked(packed, relay=False)
            noise = self._images(normals(batch.keys, shape))
            x = sampler.start_rows(batch.step.point.sigma_t, noise)
            x, m = sampler.first_state(x, None)
            return written(changed, packed, x=x, m=m), ()

        return start

    def _start_relay(self, size: Size) -> Callable:
        shape, cascade = self._cascade.latent(size), self._cascade
        encode = cascade.coders.encoder(cascade.encoder, size, self._tile)

        def start(params, changed, kept, packed):
            batch = unpacked(packed, relay=True)
            up = up2(to_pixels(self._images(packed.given)))
            low = encode(params[0], up, self._images(normals(batch.low_keys, shape)))
            noise = self._images(normals(batch.keys, shape))
            x = sampler.start_rows(batch.step.point.sigma_t, noise, low)
            x, m = sampler.first_state(x, low)
            return written(changed, packed, x=x, m=m, low=low), ()

        return start

    def _step(self, stage: str) -> Callable:
        form = self._cascade.description.stages[stage].form
        matrix = jnp.asarray(self._matrix)

        def step(params, changed, kept, packed):
            batch = unpacked(packed, stage == "relay")
            x, m = (self._images(taken(changed[name], packed)) for name in ("x", "m"))
            low = self._images(taken(kept["low"], packed)) if "low" in kept else None
            text = jax.tree.map(
                lambda pool: jnp.take(pool, packed.slots[:, READ_TEXT], 1, mode="clip"),
                kept[stage],
            )
            network = self._networks[stage]
            if network.text_sharding is not None:
                text = jax.lax.with_sharding_constraint(text, network.text_sharding)
            predict = network.predictor(params[0], text, x, self._by_rows(batch.w))
            (x, m), x0 = sampler.step_rows(predict, (x, m), low, batch.step, form)
            preview = to_uint8(x0 @ matrix[:-1] + matrix[-1])
            return written(changed, packed, x=x, m=m), (preview,)

        return step

    def _decode(self, size: Size) -> Callable:
        cascade, scale = self._cascade, self._cascade.description.vae.measured
        decoder = cascade.coders.decoder(cascade.decoder, size, self._tile)

        def decode(params, changed, kept, packed):
            latents = self._images(taken(kept["x"], packed))
            if decoder is not cascade.decoder:  # in tiles, one picture at a time
                return {}, (decoder(params[0], latents),)
            pixels = decoded(cascade.vae, scale, params[0], latents)
            # `verify` looks at all bits, of which eight remain
            return {}, (to_uint8(pixels), fingerprint(pixels))

        return decode

    def _images(self, x: jax.Array) -> jax.Array:
        return self._constrained(x, images_sharding)

    def _by_rows(self, x: jax.Array) -> jax.Array:
        return self._constrained(x, batch_sharding)

    def _constrained(self, x: jax.Array, sharding: Callable[[Mesh], NamedSharding]) -> jax.Array:
        mesh = self._cascade.mesh
        return x if mesh is None else jax.lax.with_sharding_constraint(x, sharding(mesh))


def taken(pool: jax.Array, packed: Packed) -> jax.Array:
    """Return the rows [S, ...] that a unit reads from a pool [P, ...]."""
    return jnp.take(pool, packed.slots[:, READ], 0, mode="clip")


def written(changed: dict, packed: Packed, **rows: jax.Array) -> dict:
    """Return the pools with a unit's rows [S, ...] of each array; filling is dropped."""
    where = packed.slots[:, WRITE]
    return {name: changed[name].at[where].set(value, mode="drop") for name, value in rows.items()}
