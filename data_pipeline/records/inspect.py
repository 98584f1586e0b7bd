"""Print a dataset's schema, counts, sizes and a random sample of captions; draw a contact sheet."""

import argparse
import collections
import random
import shutil
from pathlib import Path
from typing import Any

from data_pipeline.io.arguments import Parser, add_input
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.figures import add_json
from data_pipeline.io.files import check_file
from data_pipeline.io.progress import say
from data_pipeline.io.terminal import tell, visible
from data_pipeline.records import check_records

EXAMPLE = "cv3jax data inspect --input runs/photos --out look.png"
MEASURED = 2000  # records that are read for the sizes


def parser() -> Parser:
    """Return the parser of `cv3jax data inspect`."""
    made = Parser(
        prog="cv3jax data inspect", description=__doc__, example=EXAMPLE, positional="--input"
    )
    add_input(made, "a directory of records")
    made.add_argument(
        "--num",
        type=int,
        default=16,
        metavar="N",
        help="images to show, drawn at random, 1..400 (default: %(default)s)",
    )
    made.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="N",
        help="seed of the draw; the same seed shows the same images (default: %(default)s)",
    )
    made.add_argument(
        "--out",
        type=Path,
        metavar="PNG",
        help="PNG file for a contact sheet of them with their captions",
    )
    add_json(made)
    return made


def command(args: argparse.Namespace) -> dict[str, Any]:
    """Print what is in the dataset, draw the contact sheet, and return the figures."""
    if not 1 <= args.num <= 400:
        raise InputError(f"--num {args.num}: give a number in 1..400")
    if args.out and args.out.suffix.lower() != ".png":
        raise InputError(
            f"--out {args.out}: the contact sheet is a PNG; give a name that ends in .png"
        )
    check_file(args.out, "--out")
    check_records(args.input)

    # these import the libraries that read records, which --help does not need
    from data_pipeline.records.contact_sheet import contact_sheet
    from data_pipeline.records.records import FEATURES, open_records

    source = open_records(args.input)
    count = len(source)
    chosen = sample(count, args.num, args.seed)
    shown = [source[i] for i in chosen]
    measured = min(count, MEASURED)  # evenly spaced, and more records than are shown
    sizes: collections.Counter[str] = collections.Counter()
    characters, recaptioned, image_bytes = 0, 0, 0
    for i in range(measured):
        record = source[i * count // measured]
        sizes[f"{record['width']}x{record['height']}"] += 1
        characters += len(record["caption"])
        recaptioned += bool(record["recaption"])
        image_bytes += len(record["image"])

    tell(f"{args.input}: {counted(count, 'record')} in {counted(len(source.lengths), 'shard')}")
    tell("schema:")
    for name, feature in FEATURES.items():
        tell(f"  {name:10} {type(shown[0][name]).__name__:6} {feature.doc.desc}")
    mean = (
        f"{image_bytes / measured / 1024:,.1f} KiB per image, {characters / measured:.0f}"
        " characters per caption"
    )
    tell(
        f"of {counted(measured, 'record')}: {mean}, {100 * recaptioned / measured:.0f}% recaptioned"
    )
    _print_histogram(sizes)
    tell("captions:")
    for record in shown:
        _print_caption(record)
    if args.out:
        contact_sheet(shown, args.out, name=str(args.input))
        say(f"{counted(len(shown), 'image')}: {args.out}")
    return {
        "records": count,
        "shards": len(source.lengths),
        "measured": measured,
        "sizes": dict(sizes),
        "seed": args.seed,
        "shown": chosen,
        "captions": [r["caption"] for r in shown],
    }


def sample(count: int, num: int, seed: int) -> list[int]:
    """Return the indices of at most `num` of `count` records, drawn at random, in their order."""
    return sorted(random.Random(seed).sample(range(count), min(num, count)))


def _print_caption(record: dict[str, Any]) -> None:
    """Print a record's key and captions in one line."""
    width = shutil.get_terminal_size((160, 24)).columns - 4
    new = f" → {record['recaption']}" if record["recaption"] else ""
    line = f"{record['key']}: {record['caption']}{new}".replace("\n", " ")
    tell(f"  {visible(line)[:width]}")


def _print_histogram(sizes: "collections.Counter[str]", rows: int = 12) -> None:
    """Print how many images have each size."""
    tell("sizes (width x height):")
    table = sizes.most_common(rows)
    if others := sizes.total() - sum(n for _, n in table):
        table.append(("others", others))
    for name, n in table:
        tell(f"  {name:>12} {n:7,} {'#' * round(40 * n / sizes.total())}")
