"""Check that the pictures asked for fit the devices, before any parameter is loaded.

A rough figure from the sizes lets small requests through at once. Where it comes near the capacity
of the devices, XLA compiles the programs, and its own figure decides.
"""

import itertools
import math
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.parts import computed_shapes
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sampler_settings import AS_DESCRIBED, SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.cascade.stage_network import check_context
from cv3jax.cascade.stage_sampler import check_rows, images_sharding
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.distributed.host_memory import free_bytes
from cv3jax.distributed.mesh import BATCH, batch_sharding, batch_ways
from cv3jax.distributed.partitioning import abstract, tree_sharding
from data_pipeline.io.errors import InputError, first_line

NEAR = 0.25  # share of the capacity above which XLA is asked
# bytes per element of the widest convolution, as XLA's CPU plans the decoder: 12 in bfloat16, 14 in
# float32
WIDE = 14


class NoRoomError(InputError):
    """Pictures need more memory than a device has."""


class Program(NamedTuple):
    """A program of a request and a rough figure of what it takes."""

    what: str
    jitted: Any
    args: tuple
    rough: int  # bytes per device beside the parameters


class Pictures(NamedTuple):
    """What is drawn at once: `width` pictures, first of sizes[0], then of each relay pass."""

    width: int
    sizes: tuple[Size, ...]
    given: bool = False  # whether the first pictures are given instead of drawn


def planned(
    description: CascadeDescription, parts: tuple[str, ...], mesh: Mesh | None, attention: str
) -> Cascade:
    """Return the cascade that `pipeline.load` would, with shapes in place of parameters."""
    if description.vae is None:
        raise InputError(
            "the cascade has no vae, which decodes latents into pictures; give a cascade with a vae"
        )
    shapes = {part: computed_shapes(description, part) for part in parts or description.parts}
    if mesh is None:
        everywhere = SingleDeviceSharding(jax.local_devices()[0])
        shapes = abstract(shapes, everywhere)
    else:
        shapes = {part: abstract(tree, tree_sharding(tree, mesh)) for part, tree in shapes.items()}
    return Cascade(description, shapes, None, mesh, attention)


def check_fits(
    cascade: Cascade,
    pictures: Pictures,
    base: SamplerSettings = AS_DESCRIBED,
    relay: SamplerSettings = AS_DESCRIBED,
) -> None:
    """Raise NoRoomError where a program of these pictures needs more memory than a device has.

    cascade: of `planned`, or a loaded one, whose parameters are in memory already.
    """
    loaded = [x for x in jax.tree.leaves(cascade.params) if isinstance(x, jax.Array)]
    has, held = room(cascade.mesh) + bytes_per_device(loaded), bytes_per_device(cascade.params)
    for program in programs(cascade, pictures, base, relay):
        # a mesh may gather a part's parameters, and a CPU widen them
        if held + _whole(program.args[0]) + program.rough <= NEAR * has:
            continue
        planned, least = taken(program), held + bytes_per_device(program.args[1:])
        if planned is None or least + planned > has:
            takes = f"over {has / 1e9:.1f}" if planned is None else f"{(least + planned) / 1e9:.1f}"
            raise NoRoomError(
                f"{program.what} takes {takes} GB per device, {held / 1e9:.1f} GB of it for"
                f" parameters, but a device has {has / 1e9:.1f} GB; {_advice(cascade, pictures)}"
            )


def _advice(cascade: Cascade, pictures: Pictures) -> str:
    ways = 1 if cascade.mesh is None else batch_ways(cascade.mesh)
    smaller = "a smaller --batch" if pictures.width > ways else "a smaller --size"
    return (
        f"give {smaller}, or use more devices: --mesh fsdp=N shards the parameters, context=N the"
        " pictures"
    )


def room(mesh: Mesh | None) -> int:
    """Return the free bytes of a device of `mesh`; CPU devices share the memory of their host."""
    devices = jax.local_devices()[:1] if mesh is None else list(mesh.devices.flat)
    stats = devices[0].memory_stats() or {}
    if "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    if devices[0].platform != "cpu":  # an allocator that does not tell: then nothing is refused
        return sys.maxsize
    return free_bytes() // len(devices)


def taken(program: Program) -> int | None:
    """Return the bytes per device that the compiled program takes beside the parameters.

    The figure is XLA's own plan. It is None where there is too little memory to compile the
    program.
    """
    try:
        plan = program.jitted.lower(*program.args).compile().memory_analysis()
    except jax.errors.JaxRuntimeError as e:
        if "RESOURCE_EXHAUSTED" not in first_line(e, 200):
            raise
        return None
    return plan.temp_size_in_bytes + plan.output_size_in_bytes


def programs(
    cascade: Cascade, pictures: Pictures, base: SamplerSettings, relay: SamplerSettings
) -> Iterator[Program]:
    """Yield the programs of a request in order.

    For each size of pictures they are the ones that sample, encode and decode.
    """
    if not pictures.given:
        yield _sampler(cascade, "base", pictures.width, pictures.sizes[0], base)
        yield _decoder(cascade, pictures.width, pictures.sizes[0], base.tile)
    for size in pictures.sizes[1:]:
        images = _images(cascade, (pictures.width, *size, 3), given=True)
        noise = _images(cascade, (pictures.width, *cascade.latent(size)), given=True)
        args = (cascade.params["vae"], images, noise)
        rough = _coding(cascade, pictures.width, size, relay.tile)
        encode = cascade.coders.encoder(cascade.encoder, size, relay.tile)
        yield Program(f"encoding pictures of {size}", encode, args, rough)
        yield _sampler(cascade, "relay", pictures.width, size, relay)
        yield _decoder(cascade, pictures.width, size, relay.tile)


def _decoder(cascade: Cascade, width: int, size: Size, tile: int = 0) -> Program:
    args = (cascade.params["vae"], _images(cascade, (width, *cascade.latent(size))))
    rough = _coding(cascade, width, size, tile)
    decode = cascade.coders.decoder(cascade.decoder, size, tile)
    return Program(f"decoding pictures of {size}", decode, args, rough)


def _sampler(
    cascade: Cascade, name: str, width: int, size: Size, settings: SamplerSettings
) -> Program:
    stage, text = cascade.description.stages[name], cascade.description.t5
    latents = _images(cascade, (width, *cascade.latent(size)))
    check_context(cascade.mesh, cascade.description, name, latents.shape[1], settings.tile)
    rows = latents.sharding if cascade.mesh is None else _rows(cascade.mesh)
    features = (width, text.length, stage.text_width)
    features = jax.ShapeDtypeStruct(features, jnp.float32, sharding=rows)
    keys = jax.eval_shape(lambda: jax.vmap(jax.random.key)(jnp.arange(width, dtype=jnp.uint32)))
    sampler, w = cascade.sampler(name, settings)
    read = jax.eval_shape(sampler.read_text, cascade.params[name], features)
    read = abstract(read, sampler.text_sharding or rows)
    args = (
        cascade.params[name],
        read,
        latents if stage.kind == "relay" else None,
        (latents, latents),  # a state
        keys if cascade.mesh is None else abstract(keys, batch_sharding(cascade.mesh)),
        cascade.put_rows(w),
        (jax.ShapeDtypeStruct((), jnp.int32), jax.ShapeDtypeStruct((), jnp.int32)),
    )
    model, (share, *sides, _) = stage.model, _share(latents)
    most = settings.tile // stage.factor or max(latents.shape)
    height, breadth = (min(side, most) for side in sides)
    wide = model.get("channels", 320) * height * breadth
    # the attention weights of all queries over all keys and heads, in the first stage with
    # attention
    depth, mult = model.get("depth", (0, 2, 10)), model.get("channel_mult", (1, 2, 4))
    first = next((i for i, blocks in enumerate(depth) if blocks), len(depth) - 1)
    heads = model.get("channels", 320) * mult[first] // model.get("head_dim", 64)
    tokens = min(latents.shape[1], most) * min(latents.shape[2], most) // 4**first
    ours = height * breadth // 4**first
    rough = 2 * share * (2 * WIDE * wide + 8 * heads * tokens * ours)
    return Program(f"the {name} stage at {size}", sampler.run, args, rough)


def _coding(cascade: Cascade, width: int, size: Size, tile: int = 0) -> int:
    """Return about how many bytes per device the autoencoder takes for `width` pictures.

    In tiles these are a tile's, and two maps of half the resolution of one picture.
    """
    if tile and max(size) > tile:
        small = Size(*(min(side, tile) for side in size))
        maps = 4 * cascade.description.vae.model.get("channels", 128) * math.prod(size)
        # one picture of those of each device at a time
        one = 1 if cascade.mesh is None else batch_ways(cascade.mesh)
        return _coding(cascade, one, small) + maps
    model = cascade.description.vae.model
    mult = model.get("channel_mult", (1, 2, 4, 4))
    # an upsampling convolution has the channels of the stage below
    pairs = itertools.pairwise([*mult, mult[-1]])
    wide = max(max(pair) / 4**stage for stage, pair in enumerate(pairs))
    share = _share(_images(cascade, (width, *size, 3)))
    places = math.prod(share[:3]) / model.get("patch", 1) ** 2
    return round(WIDE * model.get("channels", 128) * wide * places)


def _images(
    cascade: Cascade, shape: tuple[int, ...], *, given: bool = False
) -> jax.ShapeDtypeStruct:
    """Return pictures or latents as shapes, sharded as for sampling.

    given: they come from the host and not from a program. Without a mesh they are then tied to no
    device, for which XLA compiles another program.

    Raises InputError where their height does not divide over the mesh.
    """
    if cascade.mesh is not None:
        where = images_sharding(cascade.mesh)
        check_rows(cascade.mesh, shape[1])
    else:
        where = None if given else SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(shape, jnp.float32, sharding=where)


def _rows(mesh: Mesh) -> NamedSharding:
    """`batch_sharding` as programs give it back: without axes of a single device."""
    return NamedSharding(mesh, P(tuple(axis for axis in BATCH if mesh.shape[axis] > 1) or None))


def _share(x: jax.ShapeDtypeStruct | jax.Array) -> tuple[int, ...]:
    """Return the shape of what one device holds of an array."""
    sharding = getattr(x, "sharding", None)
    return x.shape if sharding is None else sharding.shard_shape(x.shape)


def bytes_per_device(tree: Any) -> int:
    """Return the bytes of these arrays, or of such shapes, that one device holds."""
    return sum(math.prod(_share(x)) * x.dtype.itemsize for x in jax.tree.leaves(tree))


def _whole(tree: Any) -> int:
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in jax.tree.leaves(tree))
