"""`cv3jax data encode`: make a feature cache, a dataset's latents and text features.

So training need not compute them at every step.
"""

import itertools
import time
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.sharding import Mesh

from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.distributed import preemption
from cv3jax.distributed.backend import waiting
from cv3jax.distributed.independent import holding
from cv3jax.distributed.mesh import batch_ways, choose_mesh, make_mesh
from cv3jax.precompute.encoders import load_encoders
from cv3jax.precompute.shard import Hooks, encode_shard
from cv3jax.precompute.staging import begin, complete, finish, is_whole, partial, shard_path
from cv3jax.training.cache_identity import cache_identity
from cv3jax.training.frozen import frozen_description
from cv3jax.training.settings import StageSettings
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, StoppedError, counted
from data_pipeline.io.objects.places import public
from data_pipeline.io.progress import say
from data_pipeline.io.shares import Share
from data_pipeline.records.feature_cache import payload
from data_pipeline.records.records import RecordSource, open_records

WHOLE = Share(0, 1)
ENDS = "the command ends after this batch; run it again to resume at the unfinished shard"


def run(
    settings: StageSettings,
    out: Path,
    *,
    latents: str | None,
    text: str | None,
    batch: int,
    mesh: str | None = None,
    overwrite: bool = False,
    share: Share = WHOLE,
) -> dict[str, Any]:
    """Encode this share of the shards of config.data.path. Returns the figures.

    The encoders are those of config.cascade; shards that exist are kept. latents, text: the types
    in which they are stored, None for neither. batch: images per device at once.

    Raises:
        InputError: the recipe, the dataset, the cascade or the mesh does not fit, or `out` holds
            something else.
        StoppedError: SIGTERM or Ctrl-C came.
        OSError: something could not be written; the same command continues.
    """
    records = open_records(settings.data.path)
    directory, description = described(settings, text)
    identity = cache_identity(settings, directory, description, records, latents=latents, text=text)
    devices = choose(mesh, -(-max(records.lengths) // batch))
    figures = {
        "images": len(records),
        "part": list(share),
        "made": 0,
        "left": 0,
        "damaged": 0,
        "several_captions": 0,
        "encode_seconds": 0.0,
        "images_per_second": None,
        "bytes_per_image": payload(identity),
        "bytes": None,
        "out": None,
    }
    lacking: list[int] = []
    if not complete(out, identity):
        begin(out, identity, overwrite)
        with holding(partial(out), share) as place:
            # again, because another process may have found the last shard meanwhile
            if not complete(out, identity):
                source = Source(settings, records, directory, description)
                figures |= encode(source, identity, devices, batch, Target(out, place, share))
        lacking = finish(out, identity)
    if lacking:
        said = (
            f"share {share.index} of {share.count} is done; shards left to the other processes:"
            f" {len(lacking)} of {len(records.lengths)}"
        )
    else:
        figures |= {"out": public(out), "bytes": sum(path.stat().st_size for path in out.iterdir())}
        said = f"{public(out)} has all {counted(len(records), 'record')}"
    say(f"cv3jax: {counted(figures['made'], 'record')} encoded; {said}")
    return figures


def described(settings: StageSettings, text: str | None) -> tuple[Path, CascadeDescription]:
    """Return (directory, description) of config.cascade.

    Raises InputError on a stage without latents, on buckets, or on a missing part.
    """
    if settings.stage not in ("base", "relay"):
        raise InputError(
            f"--config: the stage {settings.stage} trains on the images themselves; give the recipe"
            " of a base or relay stage"
        )
    if settings.data.buckets:
        raise InputError(
            "config.data.buckets: a feature cache has one size, config.data.image_size; leave the"
            " buckets out"
        )
    if not settings.cascade:
        raise InputError(
            "--checkpoint is not given; give one with a vae and t5, e.g. --checkpoint runs/base"
        )
    _, description = cascades.read_cascade(settings.cascade)
    if text and description.t5 is None:
        raise InputError(
            f"--checkpoint {settings.cascade} has no t5; give a cascade with a t5 (that of a base"
            " run has one), or --text none"
        )
    return frozen_description(settings)


def choose(mesh: str | None, count: int) -> Mesh:
    """Return the mesh over this process's devices, at most as many as there are batches.

    Raises InputError on axes over which encoders are not sharded.
    """
    devices = choose_mesh(mesh, count) or make_mesh(data=1, devices=jax.local_devices()[:1])
    if batch_ways(devices) != devices.size:
        raise InputError(
            f"--mesh {mesh}: encoders are sharded over data and fsdp only; leave other axes out"
        )
    return devices


class Source(NamedTuple):
    """What is encoded, and with which cascade."""

    settings: StageSettings
    records: RecordSource
    directory: Path  # of the cascade
    description: CascadeDescription


class Target(NamedTuple):
    """Where the shards go, and which of them belong to this process."""

    out: Path
    place: Path  # of unfinished shards
    share: Share


def encode(
    source: Source, identity: dict[str, Any], devices: Mesh, batch: int, target: Target
) -> dict[str, Any]:
    """Make the missing shards of this share. Returns the figures.

    Raises StoppedError where some are left.
    """
    settings, records = source.settings, source.records
    starts, lengths = (
        list(itertools.accumulate(records.lengths, initial=0)),
        records.lengths,
    )
    own = [k for k in range(len(lengths)) if k % target.share.count == target.share.index]
    todo = [k for k in own if not is_whole(shard_path(target.out, k, identity), lengths[k])]
    if not todo:
        return {}
    with waiting(f"loading the encoders of {source.directory}"):
        encoders = load_encoders(
            settings, source.directory, source.description, identity, devices, batch
        )
    began, made, stop, damage, several = time.monotonic(), 0, None, [], []

    def damaged(problem: str) -> None:
        damage.append(problem)
        if len(damage) > settings.data.max_damaged:
            raise InputError(
                f"{problem}; pack the data again without it (damaged records so far: {len(damage)};"
                f" config.data.max_damaged = {settings.data.max_damaged})"
            )

    with (
        preemption.noticing(ends=ENDS) as noticed,
        progress.bar(sum(lengths[k] for k in todo), "encode", "image") as bar,
    ):
        for k in todo:
            rows = range(starts[k], starts[k] + lengths[k])
            path = shard_path(target.out, k, identity)
            made += encode_shard(
                records,
                rows,
                encoders,
                target.place,
                path,
                settings.data.threads,
                Hooks(damaged, bar.update, noticed, several.append),
            )
            if stop := noticed():
                break
    left = sum(lengths[k] for k in todo) - made
    if stop and left:
        raise StoppedError(stop, f"records left: {left:,}; run the same command to resume")
    for problem in damage:
        say(f"cv3jax: {problem}; training skips it")
    if sum(several):
        said = (
            f"{sum(several):,} of {made:,} records have several captions, but the feature cache has"
            " text features of the first one only; to train on all captions, give --text none"
        )
        say(f"cv3jax: {said}")
    seconds = time.monotonic() - began
    return {
        "made": made,
        "left": left,
        "damaged": len(damage),
        "several_captions": sum(several),
        "encode_seconds": seconds,
        "images_per_second": made / seconds,
    }
