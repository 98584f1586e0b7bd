"""Compare the loader's speed with that of webdataset and PyTorch's DataLoader.

    python benchmarks/loader.py --rounds 5 --json benchmarks/results/loader.json

The unit is decoded crops a second, from the same JPEGs on the same cores. --images JPEGs (quality
90, both sides uniform in 512..1024 pixels) are made of the photographs of scikit-image and
scikit-learn, and written as records and as tars. Each side has --workers: threads or processes
here, worker processes in PyTorch. The peer is written as its users write it: workers return batches
of uint8, and Pillow decodes the whole image and resizes the same window with the same filter. Each
side runs in a process of its own. A turn starts it anew, takes what was prefetched, and times
--batches batches of --batch. Exits 1 if the median ratio within rounds is below 1.5 at 256² or
below 1 at 512², or if pixels differ by more than 2 of 255 where both decode the whole image. Needs
PyTorch and webdataset.
"""

import argparse
import io
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import measure
import numpy as np
import skimage
import sklearn.datasets
import webdataset
from PIL import Image

from data_pipeline.loading.crops import fit
from data_pipeline.loading.loader import make_loader
from data_pipeline.loading.settings import LoaderSettings
from data_pipeline.records.records import RecordWriter, make_record, open_records

BARS = {256: 1.5, 512: 1.0}
SIDES = ("threads", "processes", "peer")
DIFFERENCE = 2  # of 255
SHARDS = 8
PREFETCH = 8  # prefetched batches, on either side
PHOTOGRAPHS = (
    "astronaut.png",
    "chelsea.png",
    "coffee.png",
    "hubble_deep_field.jpg",
    "motorcycle_left.png",
    "retina.jpg",
    "rocket.jpg",
    "brick.png",
    "grass.png",
    "gravel.png",
)


def jpegs(count: int) -> Iterator[bytes]:
    """Yield windows of the photographs as JPEGs, resized to sides of 512 to 1024."""
    folder = Path(skimage.__file__).parent / "data"
    photographs = [Image.open(folder / name).convert("RGB") for name in PHOTOGRAPHS]
    photographs += [Image.fromarray(x) for x in sklearn.datasets.load_sample_images().images]
    draws = np.random.default_rng(0)
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        size = draws.integers(512, 1025, 2)
        share = draws.uniform(0.7, 1.0) * min(np.array(photograph.size) / size)
        corner = draws.random(2) * (np.array(photograph.size) - share * size)
        image = photograph.resize(
            tuple(map(int, size)), Image.Resampling.BICUBIC, box=(*corner, *(corner + share * size))
        )
        out = io.BytesIO()
        image.save(out, "JPEG", quality=90)
        yield out.getvalue()


def write(folder: Path, count: int) -> None:
    """Write the same pictures as records and as tars."""
    (folder / "tars").mkdir(parents=True)
    with (
        RecordWriter(folder / "records", shards=SHARDS) as records,
        webdataset.ShardWriter(
            str(folder / "tars" / "%03d.tar"), maxcount=-(-count // SHARDS), verbose=0
        ) as tars,
    ):
        for number, jpeg in enumerate(jpegs(count)):
            records.write(make_record(jpeg, f"photograph {number}", key=f"{number:06d}"))
            tars.write({"__key__": f"{number:06d}", "jpg": jpeg, "txt": f"photograph {number}"})


def peer_crop(data: bytes, size: int, down: float, across: float) -> np.ndarray:
    """Return a square crop, uint8 [size, size, 3], as users of Pillow make it.

    The crop's window is resized directly, which equals a crop of the resized image.
    """
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    scale = size / min(width, height)
    resized = (max(size, round(width * scale)), max(size, round(height * scale)))
    left, top = int(across * (resized[0] - size + 1)), int(down * (resized[1] - size + 1))
    x, y = width / resized[0], height / resized[1]
    box = (left * x, top * y, min((left + size) * x, width), min((top + size) * y, height))
    return np.asarray(image.resize((size, size), Image.Resampling.LANCZOS, box=box))


def ours(
    folder: Path, size: int, batch: int, workers: int, *, processes: bool
) -> tuple[Iterator, Callable]:
    """Return an endless iterator of batches, and a function that ends it."""
    loader = make_loader(
        folder / "records",
        LoaderSettings(
            batch_size=batch,
            image_size=size,
            seed=0,
            num_threads=1 if processes else workers,
            num_workers=workers if processes else 0,
            prefetch=PREFETCH,
        ),
    )
    return loader, loader.close


def peer(folder: Path, size: int, batch: int, workers: int) -> tuple[Iterator, Callable]:
    """Return an endless iterator of PyTorch's batches, and a function that ends it."""
    import torch

    draws = np.random.default_rng()

    def example(sample):
        return peer_crop(sample[0], size, *draws.random(2)), sample[1]

    def collate(samples):
        return torch.from_numpy(np.stack([image for image, _ in samples])), [
            text for _, text in samples
        ]

    tars = sorted(map(str, (folder / "tars").glob("*.tar")))
    data = (
        webdataset.WebDataset(tars, shardshuffle=len(tars), seed=0)
        .repeat()
        .shuffle(64)
        .to_tuple("jpg", "txt")
        .map(example)
    )
    loader = torch.utils.data.DataLoader(
        data.batched(batch, collation_fn=collate),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=PREFETCH // workers,
    )
    running = [iter(loader)]
    return running[0], running.clear


def turn(side: str, folder: Path, size: int, batch: int, workers: int, batches: int) -> float:
    """Return the seconds of `batches` batches, after all prefetched ones have been taken."""
    given = (folder, size, batch, workers)
    data, end = peer(*given) if side == "peer" else ours(*given, processes=side == "processes")
    try:
        for _ in range(PREFETCH + workers):
            next(data)
        began = time.perf_counter()
        for _ in range(batches):
            next(data)
        return time.perf_counter() - began
    finally:
        del data
        end()


def compare(folder: Path, size: int, count: int = 100) -> dict[str, float]:
    """Return how the same windows of the same files differ between both sides.

    `largest_difference` is of pixels where both decode the whole image; `reduced_psnr`, in dB, is
    of images that this loader reduces during decoding.
    """
    records, draws = open_records(folder / "records"), np.random.default_rng(1)
    worst, alike, psnr = 0, 0, []
    for i in range(min(count, len(records))):
        data, (down, across) = records[i]["image"], draws.random(2)
        theirs = peer_crop(data, size, down, across).astype(int)
        whole = fit(data, size, position=(down, across), reduced=False)[0]
        worst, mine = (
            max(worst, int(np.abs(whole - theirs).max())),
            fit(data, size, position=(down, across))[0],
        )
        if np.array_equal(mine, whole):
            alike += 1
        else:
            psnr.append(float(10 * np.log10(255**2 / np.mean((mine - theirs) ** 2))))
    return {
        "largest_difference": worst,
        "decoded_whole": alike,
        "of": min(count, len(records)),
        "reduced_psnr": psnr,
    }


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--batches", type=int, default=16, help="timed in each turn (default: 16)")
    parser.add_argument(
        "--workers", type=int, default=2, help="threads or processes of each side (default: 2)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    parser.add_argument(
        "--serve", nargs=3, metavar=("SIDE", "SIZE", "FOLDER"), help=argparse.SUPPRESS
    )
    args = parser.parse_args()
    if min(args.images, args.batch, args.batches, args.workers, args.rounds) < 1:
        parser.error("--images, --batch, --batches, --workers and --rounds must be at least 1")
    if args.serve:
        side, size, folder = args.serve
        measure.serve(
            {}, lambda: turn(side, Path(folder), int(size), args.batch, args.workers, args.batches)
        )
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "data"
        write(folder, args.images)
        figures, missed = {}, []
        for size, bar in BARS.items():
            fixed = [
                "--batch",
                str(args.batch),
                "--batches",
                str(args.batches),
                "--workers",
                str(args.workers),
            ]
            commands = {
                side: [sys.executable, __file__, *fixed, "--serve", side, str(size), str(folder)]
                for side in SIDES
            }
            with measure.workers(commands) as sides:
                took = measure.turns(
                    sides,
                    args.rounds,
                    lambda line, size=size: print(f"{size}², {line}", flush=True),
                )
            rates = {
                side: [args.batch * args.batches / t for t in values]
                for side, values in took.items()
            }
            ratios = {
                side: measure.ratios(rates[side], rates["peer"]) for side in SIDES if side != "peer"
            }
            same = compare(folder, size)
            figures[size] = {"images_a_second": rates, "ratio": ratios, **same}
            if ratios["threads"].median < bar:
                missed.append(
                    f"{size}²: {ratios['threads']} times the peer's rate, the bar is {bar}"
                )
            if same["largest_difference"] > DIFFERENCE:
                missed.append(
                    f"{size}²: pixels differ by {same['largest_difference']} of 255, at most"
                    f" {DIFFERENCE} is right"
                )
    facts = measure.facts("grain", "torch", "webdataset", "pillow")
    print(json.dumps(facts, indent=2))
    rows = [
        (f"{size}²", side, measure.spread(one["images_a_second"][side]), one["ratio"].get(side, ""))
        for size, one in figures.items()
        for side in SIDES
    ]
    print(measure.table(("crops", "side", "images a second", "of the peer's"), rows))
    for size, one in figures.items():
        reduced = (
            f"; reduced while decoding, {measure.spread(one['reduced_psnr'])} dB from that"
            if one["reduced_psnr"]
            else ""
        )
        print(
            f"{size}²: whole decodes differ by {one['largest_difference']} at most;"
            f" {one['decoded_whole']} of {one['of']} are{reduced}"
        )
    measure.write_json(
        args.json,
        {
            **facts,
            **{k: getattr(args, k) for k in ("images", "batch", "batches", "workers")},
            "sizes": figures,
        },
    )
    if missed:
        sys.exit("; ".join(missed))


if __name__ == "__main__":
    main()
