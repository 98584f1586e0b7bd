"""Pack captioned images into records.

The input is a folder of images with .txt files beside them, a folder with metadata.jsonl or .csv
(file_name, caption), or img2dataset tars. DIR/pack_report.json counts by reason what was left out.
For filters, deduplication and several machines use `cv3jax data build`.
"""

import argparse
from pathlib import Path
from typing import Any

from data_pipeline.io.arguments import Parser, add_input, add_output, add_threads
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.figures import add_json
from data_pipeline.io.objects.outputs import dataset
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.terminal import tell, visible
from data_pipeline.sources.detect import check_source

EXAMPLE = "cv3jax data pack --input photos/ --out runs/photos"


def parser() -> Parser:
    """Return the parser of `cv3jax data pack`."""
    made = Parser(
        prog="cv3jax data pack",
        description=__doc__,
        example=EXAMPLE,
        old={"--source": "--input", "--workers": "--threads"},
    )
    add_input(made, "a folder of images, a folder of .tar files, or one .tar file", "PATH")
    add_output(made)
    add_threads(made)
    add_json(made)
    return made


def command(args: argparse.Namespace) -> dict[str, Any]:
    """Pack, print how much was packed and what was left out, and return the figures."""
    if args.threads is not None and not 1 <= args.threads <= 256:
        raise InputError(f"--threads {args.threads}: give a number in 1..256")
    check_source(args.input)

    # this imports the libraries that read and write records, which --help does not need
    from data_pipeline.packing.pack import pack

    def make(out: Path) -> dict[str, Any]:
        return pack(
            args.input, out, shards=args.shards, overwrite=args.overwrite, workers=args.threads
        )

    report = dataset(args.out, make, vars(args), overwrite=args.overwrite)
    tell(
        f"{counted(report['records'], 'record')} ({report['bytes'] / 2**20:,.1f} MiB of images) in"
        f" {address_of(args.out) or args.out}, {report['seconds']} s"
    )
    for reason, count in sorted(report["skipped"].items(), key=lambda kv: -kv[1]):
        tell(f"left out {count:,}: {reason} (such as {visible(report['examples'][reason][0])})")
    for field, told in report["unreadable"].items():
        tell(f"not understood {told['items']:,}: {field} (such as {visible(told['example'])})")
    return report
