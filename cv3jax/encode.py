"""`cv3jax data encode`: a dataset's latents and text features, made once and kept, so that training
need not make them at every step.
"""

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh
from ml_collections import ConfigDict
from tqdm import tqdm

from cv3jax import build, recipe
from cv3jax.build_diffusion import frozen_description
from cv3jax.checkpoints import cascades
from cv3jax.distributed import preemption
from cv3jax.distributed.independent import Part, holding, which_part
from cv3jax.distributed.mesh import batch_ways, choose_mesh, make_mesh
from cv3jax.encode_batches import encode_shard
from cv3jax.encode_plan import plan
from cv3jax.encode_programs import load_encoders
from cv3jax.encode_shards import begin, complete, finish, is_whole, partial, shard_path
from data_pipeline.cache import LATENTS, TEXTS, payload
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_file, write_json
from data_pipeline.records import RecordSource, open_records

EXAMPLE = """cv3jax data encode --config=relay_1024 --data runs/art --cascade cogview3 --out runs/art_1024
  cv3jax train --config=relay_1024 --workdir runs/relay --config.data.path=runs/art --config.cascade=cogview3 \\
      --config.data.random_crop=False --config.train.preview_every=0 --config.data.cache=runs/art_1024"""
MAX_BATCH = 65_536
WHOLE = Part(0, 1)
ENDS = "ends after this batch; the shard it is at is made again by the same command"


def run(
    config: ConfigDict,
    out: Path,
    *,
    latents: str | None,
    text: str | None,
    batch: int,
    mesh: str | None = None,
    overwrite: bool = False,
    part: Part = WHOLE,
) -> dict[str, Any]:
    """Encode this part of the shards of config.data.path with the encoders of config.cascade;
    shards that are there stay. Returns figures.

    latents, text: the types they are stored in, None for neither. batch: images a device takes at
    once.

    Raises:
        InputError: the recipe, the dataset, the cascade or the mesh does not do, or `out` holds
            something else.
        StoppedError: SIGTERM or Ctrl-C came.
        OSError: something could not be written; the same command goes on.
    """
    records = open_records(config.data.path)
    directory, description = described(config, text)
    facts = plan(config, directory, description, records, latents=latents, text=text)
    devices = choose(mesh, -(-max(records.lengths) // batch))
    figures = {
        "images": len(records),
        "part": list(part),
        "made": 0,
        "left": 0,
        "damaged": 0,
        "encode_seconds": 0.0,
        "images_per_second": None,
        "bytes_per_image": payload(facts),
        "bytes": None,
        "out": None,
    }
    lacking: list[int] = []
    if not complete(out, facts):
        begin(out, facts, overwrite)
        with holding(partial(out), part) as place:
            # again, for another process may have found the last shard meanwhile
            if not complete(out, facts):
                figures |= encode(
                    config, records, directory, description, facts, devices, batch, out, place, part
                )
        lacking = finish(out, facts)
    if lacking:
        said = (
            f"part {part.index} of {part.count} is done; {len(lacking)} of {len(records.lengths)}"
            " shards are left to the others"
        )
    else:
        figures |= {"out": str(out), "bytes": sum(path.stat().st_size for path in out.iterdir())}
        said = f"all {len(records):,} are in {out}"
    print(f"cv3jax: {figures['made']:,} records encoded; {said}", file=sys.stderr)
    return figures


def described(config: ConfigDict, text: str | None) -> tuple[Path, dict]:
    """(directory, description) of config.cascade.

    Raises InputError on a stage without latents, buckets, or a part that is not there.
    """
    if config.stage not in ("base", "relay"):
        raise InputError(
            f"--config: the stage {config.stage} trains on the images themselves; give the recipe"
            " of a base or relay stage"
        )
    if config.data.get("buckets"):
        raise InputError(
            "config.data.buckets: a companion dataset is of one size, config.data.image_size; leave"
            " them out"
        )
    if not config.cascade:
        raise InputError(
            "--cascade is not given; give a checkpoint with a vae and t5, e.g. --cascade runs/base"
        )
    _, description = cascades.read_cascade(config.cascade)
    if text and "t5" not in description:
        raise InputError(
            f"--cascade {config.cascade} has no t5; give one that has (a base run leaves one), or"
            " --text none"
        )
    return frozen_description(config)


def choose(mesh: str | None, count: int) -> Mesh:
    """The mesh over this process's devices, as many as there are batches for.

    Raises InputError on axes that split no encoder.
    """
    devices = choose_mesh(mesh, count) or make_mesh(data=1, devices=jax.local_devices()[:1])
    if batch_ways(devices) != devices.size:
        raise InputError(f"--mesh {mesh}: encoders are split over data and fsdp alone")
    return devices


def encode(
    config: ConfigDict,
    records: RecordSource,
    directory: Path,
    description: dict,
    facts: dict[str, Any],
    devices: Mesh,
    batch: int,
    out: Path,
    place: Path,
    part: Part,
) -> dict[str, Any]:
    """Make the shards of this part that are missing.

    Returns figures; raises StoppedError where some are left.
    """
    starts, lengths = (
        [sum(records.lengths[:k]) for k in range(len(records.lengths))],
        records.lengths,
    )
    own = [k for k in range(len(lengths)) if k % part.count == part.index]
    todo = [k for k in own if not is_whole(shard_path(out, k, facts), lengths[k])]
    if not todo:
        return {}
    encoders = load_encoders(config, directory, description, facts, devices, batch)
    began, made, stop, damage = time.monotonic(), 0, None, []

    def damaged(problem: str) -> None:
        damage.append(problem)
        if len(damage) > config.data.max_damaged:
            many = (
                f" ({len(damage)} damaged records, where config.data.max_damaged is"
                f" {config.data.max_damaged})"
            )
            raise InputError(f"{problem}{many}; pack the data again without it")

    rate = {
        "unit": "image",
        "desc": "encode",
        "file": sys.stderr,
        "mininterval": 1.0 if sys.stderr.isatty() else 15.0,
    }
    with (
        preemption.noticing(ends=ENDS) as noticed,
        tqdm(total=sum(lengths[k] for k in todo), dynamic_ncols=True, **rate) as bar,
    ):
        for k in todo:
            rows, path = range(starts[k], starts[k] + lengths[k]), shard_path(out, k, facts)
            made += encode_shard(
                records,
                rows,
                encoders,
                place,
                path,
                threads=config.data.threads,
                damaged=damaged,
                advance=bar.update,
                stop=noticed,
            )
            if stop := noticed():
                break
    left = sum(lengths[k] for k in todo) - made
    if stop and left:
        raise preemption.StoppedError(
            stop, f"{left:,} records are left; run the same command to continue"
        )
    for problem in damage:
        print(f"cv3jax: {problem}; training passes it over", file=sys.stderr)
    seconds = time.monotonic() - began
    return {
        "made": made,
        "left": left,
        "damaged": len(damage),
        "encode_seconds": seconds,
        "images_per_second": made / seconds,
    }


def arguments(argv: list[str] | None) -> tuple[argparse.Namespace, list[str]]:
    """(the flags, `--config.a.b=v` overrides). Raises InputError on a value that cannot be."""
    more = (
        "docs/encode.md says when that pays.\n\nStopped or killed, the same command goes on;"
        " several processes share the shards."
    )
    parser = recipe.command(
        "data encode",
        f"{__doc__} {more}",
        f"{EXAMPLE}\n\nrecipes: {', '.join(recipe.recipes())} (each also :tiny)",
    )
    parser.add_argument(
        "--config",
        required=True,
        metavar="NAME[:VARIANT]|FILE.py",
        help=(
            "the recipe that is to train on it: image size, relay or base, types; any field:"
            " --config.data.image_size=512"
        ),
    )
    parser.add_argument("--data", required=True, metavar="DIR", help="the dataset")
    parser.add_argument(
        "--cascade", required=True, metavar="DIR", help="the checkpoint whose vae and t5 encode it"
    )
    parser.add_argument(
        "--out",
        required=True,
        type=Path,
        metavar="DIR",
        help="the companion dataset; appears when complete",
    )
    parser.add_argument(
        "--latents",
        choices=(*LATENTS, "none"),
        default="float16",
        help=(
            "how means and deviations are stored (default: float16); none: training decodes and"
            " encodes images"
        ),
    )
    parser.add_argument(
        "--text",
        choices=(*TEXTS, "none"),
        default="bfloat16",
        help=(
            "how text features are stored (default: bfloat16, as a bfloat16 UNet reads them); none:"
            " training runs T5"
        ),
    )
    parser.add_argument(
        "--batch",
        type=int,
        metavar="N",
        help="images a device takes at once (default: the recipe's batch.per_device)",
    )
    parser.add_argument(
        "--mesh",
        metavar="AXIS=N,...",
        help="this machine's devices: data=-1 (default) or, where T5 does not fit one, fsdp=8",
    )
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace what is at --out of another recipe, dataset or type",
    )
    parser.add_argument(
        "--process_id",
        type=int,
        metavar="I",
        help="make part I of N, counted from 0 (default: what Slurm or JAX_PROCESS_ID says)",
    )
    parser.add_argument(
        "--num_processes",
        type=int,
        metavar="N",
        help="processes that share the work, with the same --out",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    args, overrides = parser.parse_known_args(argv)
    if args.batch is not None and not 1 <= args.batch <= MAX_BATCH:
        raise InputError(f"--batch {args.batch}: 1..{MAX_BATCH}")
    if args.latents == args.text == "none":
        raise InputError(
            "--latents none --text none: nothing is left to encode; give one of them a type"
        )
    check_file(args.json, "--json")
    return args, overrides


def main(argv: list[str] | None = None) -> None:
    args, overrides = arguments(argv)
    began = time.monotonic()
    config = recipe.load(
        args.config,
        [*overrides, f"--config.data.path={args.data}", f"--config.cascade={args.cascade}"],
    )
    build.check(config)
    latents, text = (None if value == "none" else value for value in (args.latents, args.text))
    figures = run(
        config,
        args.out.absolute(),
        latents=latents,
        text=text,
        batch=args.batch or config.batch.per_device,
        mesh=args.mesh,
        overwrite=args.overwrite,
        part=which_part(args.process_id, args.num_processes),
    )
    figures["seconds"] = time.monotonic() - began
    print(json.dumps(figures))
    write_json(args.json, figures)


if __name__ == "__main__":
    from cv3jax.cli import run_command

    run_command(main)
