"""Build a dataset from shards of captioned images.

It reads img2dataset's tars or parquet files, or folders of images. It filters them, removes
duplicates across all of them, and writes records with a yield report. It runs on Apache Beam: on
this machine, or on Dataflow, Flink or Spark with --runner and their options, which are passed on.
After it was killed, the same command resumes.
"""

import argparse
import dataclasses
import functools
import importlib.util
import logging
import re
from pathlib import Path
from typing import Any

from data_pipeline.builder.inputs import find_units
from data_pipeline.builder.settings import BuildSettings, Settings, load_settings
from data_pipeline.io import storage
from data_pipeline.io.arguments import Parser, add_overwrite, add_threads, local
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import add_json
from data_pipeline.io.objects.outputs import dataset
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.terminal import tell, visible

EXAMPLE = """cv3jax data build --input 'laion/*.tar' --out runs/laion --min-side 256 \\
      --blocked-sources blocked.txt --direct_num_workers 8 --direct_running_mode multi_processing"""


@functools.cache
def _beam_flags() -> frozenset[str] | None:
    """Return Beam's own flags, as its source has them; None where Beam is not installed.

    Beam itself takes seconds to import, and a misspelt flag should not wait for it.
    """
    found = importlib.util.find_spec("apache_beam")
    if found is None or not found.origin:
        return None
    options = Path(found.origin).parent / "options" / "pipeline_options.py"
    return frozenset(re.findall(r"""["'](--[A-Za-z][\w-]*)["']""", options.read_text()))


def is_beams(flag: str) -> bool:
    """Return whether a flag is Beam's; without Beam any flag is, and a later message says so."""
    return (known := _beam_flags()) is None or flag in known


def parser() -> Parser:
    """Return the parser of `cv3jax data build`. Flags of Beam are left to Beam."""
    made = Parser(
        prog="cv3jax data build",
        description=__doc__,
        example=EXAMPLE,
        old={"--output": "--out"},
        others=is_beams,
        apart=True,
    )
    made.add_argument(
        "--input",
        action="append",
        required=True,
        metavar="PATTERN",
        help="tars ('S/*.tar'), parquet files with image bytes, or a folder; may be repeated",
    )
    made.add_argument(
        "--out",
        required=True,
        metavar="DIR",
        help="the dataset's directory; it appears when the dataset is complete",
    )
    made.add_argument(
        "--captions",
        type=Path,
        metavar="FILE",
        help="csv or jsonl with the file names and captions of a folder's images",
    )
    made.add_argument(
        "--metadata",
        action="append",
        default=[],
        metavar="PATTERN",
        help="parquet files of scores, tags, URLs",
    )
    made.add_argument(
        "--join-on",
        default="key",
        metavar="COLUMN",
        help="the column by which metadata is joined: key, url or a score (default: key)",
    )
    add_overwrite(made)
    made.add_argument(
        "--max-bad-fraction",
        type=float,
        default=0.05,
        metavar="P",
        help="largest share of damaged items; with more, the build ends (default: %(default)s)",
    )
    made.add_argument(
        "--allow-unreadable-fields",
        action="store_true",
        help=(
            "let images pass a filter whose field cannot be understood, or is missing in all images"
            " of their source"
        ),
    )
    made.add_argument(
        "--shard-mb",
        type=int,
        default=256,
        metavar="MB",
        help="inputs are combined into shards of about this size (default: 256)",
    )
    add_threads(made)
    made.add_argument(
        "--filters",
        type=Path,
        metavar="YAML",
        help="a file with any of the filters below, such as 'min_side: 256'",
    )
    filters = made.add_argument_group("filters")
    for field in dataclasses.fields(Settings):
        flag, kind = f"--{field.name.replace('_', '-')}", field.metadata["kind"]
        text = field.metadata["help"]
        if kind is bool:
            filters.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=None, help=text
            )
        else:
            default = "off" if field.default is None else f"{field.default:,}"
            filters.add_argument(
                flag,
                type=kind,
                metavar="X" if kind is not str else "TEXT",
                help=f"{text} (default: {default})",
            )
    add_json(made)
    return made


def command(args: argparse.Namespace) -> dict[str, Any]:
    """Build the dataset, print what became of the images, and return the figures."""
    check_places(args)
    flags = {field.name: getattr(args, field.name) for field in dataclasses.fields(Settings)}
    filters = load_settings(
        args.filters, {name: value for name, value in flags.items() if value is not None}
    )
    settings = BuildSettings(
        filters=filters,
        join_on=args.join_on,
        shard_mb=args.shard_mb,
        max_bad_fraction=args.max_bad_fraction,
        threads=args.threads,
        allow_unreadable=args.allow_unreadable_fields,
    )
    units = find_units(args.input, args.captions)
    tables = tuple(path for pattern in args.metadata for path in storage.files(pattern))
    if args.metadata and not tables:
        raise InputError(
            f"--metadata {args.metadata[0]}: there is no such file; give parquet files, and"
            " patterns in quotes"
        )
    settings = dataclasses.replace(settings, metadata=tables)
    # on import, Beam warns of clouds that it could not reach
    logging.disable(logging.WARNING)
    try:
        from data_pipeline.builder.beam import beam_options
        from data_pipeline.builder.build import build
    finally:
        logging.disable(logging.NOTSET)
    options = beam_options(args.more)

    def make(out: Path | str) -> dict[str, Any]:
        return build(units, str(out), settings, options, overwrite=args.overwrite)

    if own_store(args):  # without a cluster, this machine publishes what it has built
        report = dataset(Path(args.out), make, vars(args), overwrite=args.overwrite)
    else:
        report = make(args.out)
    tell(
        f"{report['kept']:,} of {report['items']:,} items ({report['kept_bytes'] / 2**20:,.1f} MiB"
        f" of images) in {args.out}"
    )
    for reason, count in report["dropped"].items():
        key = visible(report["examples"][reason][0]["key"])
        tell(f"dropped {count:,}: {reason} (such as {key})")
    for field, told in report["unreadable"].items():
        tell(f"not understood {told['items']:,}: {field} (such as {visible(told['example'])})")
    for broken in report["broken_files"]:
        tell(f"truncated: {visible(broken['file'])} {visible(broken['detail'])}")
    tell(f"report: {storage.join(args.out, 'report.html')}")
    return report


def own_store(args: argparse.Namespace) -> bool:
    """Return whether this machine builds alone for an address of which the library is installed."""
    address = address_of(args.out)
    if address is None or any(word.startswith("--runner") for word in args.more):
        return False
    return importlib.util.find_spec("s3fs" if address.startswith("s3://") else "gcsfs") is not None


def check_places(args: argparse.Namespace) -> None:
    """Raise InputError on an --input, --metadata or --out that cannot be read or written here."""
    for flag, given in (
        *(("--input", each) for each in args.input),
        *(("--metadata", each) for each in args.metadata),
        *(() if own_store(args) else (("--out", args.out),)),
    ):
        storage.check_address(given, flag)
    if not storage.is_remote(args.out):
        local(args.out, "--out")
