"""`cv3jax data <sub>`: pack a source into records, look into records, render captioned scenes."""

import argparse
import collections
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from data_pipeline.arguments import Parser, check_file, run
from data_pipeline.errors import InputError


def main(argv: list[str] | None = None) -> None:
    """Runs one subcommand. Figures go to stdout and, with --json, to a file; progress goes to stderr.

    Raises:
        InputError: something given is unusable, a wrong flag included.
    """
    args = _parser().parse_args(argv)
    check_file(args.json, "--json")
    figures = args.run(args)
    if args.json:
        try:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps(figures, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as e:
            raise InputError(f"--json {args.json}: cannot be written ({e.strerror})") from e


def _parser() -> Parser:
    parser = Parser(prog="cv3jax data", description=__doc__, epilog="example: cv3jax data pack --source photos/ --out runs/photos")
    subs = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run, summary: str, example: str) -> argparse.ArgumentParser:
        sub = subs.add_parser(name, help=summary, description=summary, epilog=f"example: cv3jax data {example}")
        sub.set_defaults(run=run)
        sub.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as JSON")
        return sub

    def add_output(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--out", type=Path, required=True, metavar="DIR", help="the dataset's directory; appears when complete")
        sub.add_argument("--shards", type=int, default=8, metavar="N", help="ArrayRecord files (default: %(default)s)")
        sub.add_argument("--overwrite", action="store_true", help="replace a dataset that is already there")

    pack = add(
        "pack",
        _pack,
        "Packs captioned images into records: a folder of image + .txt, or one with metadata.jsonl (file_name, caption), "
        "or img2dataset tars. What is left out is counted by reason in DIR/pack_report.json.",
        "pack --source photos/ --out runs/photos",
    )
    pack.add_argument("--source", type=Path, required=True, metavar="PATH", help="a folder, a folder of .tar, or one .tar")
    pack.add_argument("--workers", type=int, metavar="N", help="threads that decode (default: one per core)")
    add_output(pack)

    inspect = add(
        "inspect",
        _inspect,
        "Prints a dataset's schema, counts, sizes and captions, and draws a contact sheet.",
        "inspect --data runs/photos --out contact.png",
    )
    inspect.add_argument("--data", type=Path, required=True, metavar="DIR", help="a directory of records")
    inspect.add_argument("--num", type=int, default=16, metavar="N", help="images to show, 1..400 (default: %(default)s)")
    inspect.add_argument("--out", type=Path, metavar="PNG", help="where to draw them with their captions")

    scenes = add(
        "scenes",
        _scenes,
        "Renders captioned scenes of coloured shapes, by seed. The heldout split has combinations of colour and shape that the train "
        "split never has.",
        "scenes --out runs/scenes --num 12000 --seed 0 --split train",
    )
    add_output(scenes)
    scenes.add_argument("--num", type=int, required=True, metavar="N", help="how many")
    scenes.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    scenes.add_argument("--split", choices=("train", "heldout"), default="train", help="default: %(default)s")
    scenes.add_argument("--size", type=int, default=128, metavar="PIXELS", help="of the square images (default: %(default)s)")
    for name, default, of in (
        ("--textured", 0.5, "objects with a texture, an outline or both"),
        ("--two", 0.6, "scenes with two objects"),
        ("--relational", 0.2, 'those that say "to the left of"'),
    ):
        scenes.add_argument(name, type=float, default=default, metavar="P", help=f"share of {of} (default: %(default)s)")
    return parser


def _pack(args: argparse.Namespace) -> dict[str, Any]:
    from data_pipeline.pack import pack

    if args.workers is not None and not 1 <= args.workers <= 256:
        raise InputError(f"--workers {args.workers}: give a number in 1..256")
    report = pack(args.source, args.out, shards=args.shards, overwrite=args.overwrite, workers=args.workers)
    print(f"{report['records']:,} records ({report['bytes'] / 2**20:,.1f} MiB of images) in {args.out}, {report['seconds']} s")
    for reason, count in sorted(report["skipped"].items(), key=lambda kv: -kv[1]):
        print(f"left out {count:,}: {reason} (such as {report['examples'][reason][0]})")
    return report


def _scenes(args: argparse.Namespace) -> dict[str, Any]:
    from data_pipeline.scenes import build

    count = build(
        args.out,
        args.num,
        args.seed,
        args.split,
        size=args.size,
        textured=args.textured,
        two=args.two,
        relational=args.relational,
        shards=args.shards,
        overwrite=args.overwrite,
    )
    print(f"{count:,} scenes of the {args.split} split in {args.out}")
    return {"records": count, "split": args.split, "seed": args.seed, "size": args.size}


def _inspect(args: argparse.Namespace) -> dict[str, Any]:
    from data_pipeline.contact_sheet import contact_sheet
    from data_pipeline.records import FEATURES, open_records

    if not 1 <= args.num <= 400:
        raise InputError(f"--num {args.num}: give a number in 1..400")
    if args.out and args.out.suffix.lower() != ".png":
        raise InputError(f"--out {args.out}: the contact sheet is a PNG; give a name that ends in .png")
    check_file(args.out, "--out")
    source = open_records(args.data)
    count = len(source)
    # Spread evenly, so that the sample is not just whatever was packed first; sizes come from more records than are shown.
    shown = [source[i * count // min(args.num, count)] for i in range(min(args.num, count))]
    measured = min(count, 2000)
    sizes: collections.Counter[str] = collections.Counter()
    characters, recaptioned, image_bytes = 0, 0, 0
    for i in range(measured):
        record = source[i * count // measured]
        sizes[f"{record['width']}x{record['height']}"] += 1
        characters += len(record["caption"])
        recaptioned += bool(record["recaption"])
        image_bytes += len(record["image"])

    print(f"{args.data}: {count:,} records")
    print("schema:")
    for name, feature in FEATURES.items():
        print(f"  {name:10} {type(shown[0][name]).__name__:6} {feature.doc.desc}")
    mean = f"{image_bytes / measured / 1024:,.1f} KiB an image, {characters / measured:.0f} characters a caption"
    print(f"of {measured:,} records: {mean}, {100 * recaptioned / measured:.0f}% recaptioned")
    _print_histogram(sizes)
    print("captions:")
    width = shutil.get_terminal_size((160, 24)).columns - 4
    for record in shown:
        line = f"{record['key']}: {record['caption']}".replace("\n", " ")
        print("  " + "".join(c if c.isprintable() else "?" for c in line)[:width])  # captions are foreign: no escape codes
    if args.out:
        contact_sheet(shown, args.out, name=str(args.data))
        print(f"{len(shown)} images: {args.out}", file=sys.stderr)
    return {"records": count, "measured": measured, "sizes": dict(sizes), "captions": [r["caption"] for r in shown]}


def _print_histogram(sizes: "collections.Counter[str]", rows: int = 12) -> None:
    print("sizes (width x height):")
    table = sizes.most_common(rows)
    if others := sizes.total() - sum(n for _, n in table):
        table.append(("others", others))
    for name, n in table:
        print(f"  {name:>12} {n:7,} {'#' * round(40 * n / sizes.total())}")


if __name__ == "__main__":
    run(main)
