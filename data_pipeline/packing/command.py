"""Packs captioned images into records: a folder of image + .txt, or one with metadata.jsonl
(file_name, caption), or img2dataset tars. What is left out is counted by reason in
DIR/pack_report.json. For filters, deduplication and more than one machine: `cv3jax data build`.
"""

import argparse
from pathlib import Path
from typing import Any

from data_pipeline.io.arguments import add_output
from data_pipeline.io.errors import InputError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--source",
        type=Path,
        required=True,
        metavar="PATH",
        help="a folder, a folder of .tar, or one .tar",
    )
    parser.add_argument(
        "--workers", type=int, metavar="N", help="threads that decode (default: one per core)"
    )
    add_output(parser)


def command(args: argparse.Namespace) -> dict[str, Any]:
    if args.workers is not None and not 1 <= args.workers <= 256:
        raise InputError(f"--workers {args.workers}: give a number in 1..256")

    # with the libraries that read and write records, which --help does without
    from data_pipeline.packing.pack import pack

    report = pack(
        args.source, args.out, shards=args.shards, overwrite=args.overwrite, workers=args.workers
    )
    print(
        f"{report['records']:,} records ({report['bytes'] / 2**20:,.1f} MiB of images) in"
        f" {args.out}, {report['seconds']} s"
    )
    for reason, count in sorted(report["skipped"].items(), key=lambda kv: -kv[1]):
        print(f"left out {count:,}: {reason} (such as {report['examples'][reason][0]})")
    for field, told in report["unreadable"].items():
        print(f"not understood {told['items']:,}: {field} (such as {told['example']})")
    return report
