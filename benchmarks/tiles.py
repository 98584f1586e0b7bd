"""Measure whether pictures that are drawn in tiles show it: their objects, and their borders.

    python benchmarks/tiles.py --count 200 --json benchmarks/results/tiles.json

A cascade of scenes draws held-out captions, with two relay passes. The last pass is made from the
same pictures and noise twice: as a whole, and in tiles. The judge says which pictures show what
their captions say. The seam score is the mean difference of neighbouring pixels across the borders
of tiles, over that at other places. The ratio is to the score of the whole pictures, which may have
fewer things at such places. The autoencoder has a grid of its own, so that the other places are at
multiples of its factor too. Exits 1 if a bar is missed.
"""

import argparse
import json
import sys
from pathlib import Path

import jax
import measure
import numpy as np

from cv3jax.cascade.pipeline import Cascade, load
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.cascade.stage_network import stage_tiles
from cv3jax.diffusion.tiles import Tiles
from cv3jax.distributed.backend import tune_cpu
from cv3jax.evaluation.scenes import batches, judged_scenes
from data_pipeline.scenes import grammar
from data_pipeline.scenes.judge import PROPERTIES, judge

SEAM = 1.05  # bar of the seam score
ERRORS = 2.0  # standard errors by which a share of right pictures may differ
KINDS = ("whole", "tiled")


def drawn(cascade: Cascade, captions: list[str], tile: int) -> dict[str, np.ndarray]:
    """Return the pictures after two relay passes, uint8 [N, S, S, 3], by KINDS."""
    first = cascade.sizes()[-1]
    parts: dict[str, list[np.ndarray]] = {kind: [] for kind in KINDS}
    for rows in batches(len(captions)):
        prompts, seeds = [captions[i] for i in rows], [int(i) for i in rows]
        images = cascade.generate(prompts, seeds, size=first, final=True)["relay"]
        text = cascade.text(prompts)
        keys = jax.vmap(jax.random.key)(np.asarray(seeds, np.uint32))
        for kind, settings in zip(
            KINDS, (SamplerSettings(), SamplerSettings(tile=tile)), strict=True
        ):
            made = cascade.enlarge(text, keys, images, 2, final=True, settings=settings)["relay"]
            parts[kind].append(made)
        print(f"{rows[-1] + 1} of {len(captions)} captions drawn", file=sys.stderr)
    return {kind: np.concatenate(some)[: len(captions)] for kind, some in parts.items()}


def borders(tiles: Tiles, factor: int) -> tuple[list[int], list[int]]:
    """Return the rows and the columns, in pixels, at which a tile begins or ends inside."""
    found = []
    for axis, side in enumerate(tiles.shape):
        starts = {int(start) for start in tiles.corners[:, axis]}
        ends = {start + side for start in starts}
        found.append(sorted(factor * at for at in (starts | ends) - {0, max(ends)}))
    return found[0], found[1]


def seams(images: np.ndarray, at: tuple[list[int], list[int]], factor: int) -> float:
    """Return the seam score of pictures uint8 [N, H, W, 3].

    at: the rows and columns of `borders`.
    """
    across, elsewhere = [], []
    for axis, places in enumerate(at):
        steps = np.abs(np.diff(images.astype(np.float32), axis=axis + 1)).mean((0, 2 - axis, 3))
        others = [x for x in range(factor, images.shape[axis + 1], factor) if x not in places]
        across.append(steps[np.array(places, int) - 1])
        elsewhere.append(steps[np.array(others, int) - 1])
    return float(np.concatenate(across).mean() / np.concatenate(elsewhere).mean())


def measured(cascade: Cascade, count: int, tile: int) -> dict:
    """Return all figures."""
    captions = [grammar.caption(scene) for scene in judged_scenes(count, 0)]
    made = drawn(cascade, captions, tile)
    stage, size = cascade.description.stages["relay"], Size(*made["whole"].shape[1:3])
    tiles = stage_tiles(stage, size.divided(stage.factor), tile)
    at = borders(tiles, stage.factor)
    right = {
        kind: [judge(*pair) for pair in zip(images, captions, strict=True)]
        for kind, images in made.items()
    }
    rates = {}
    for key in (*PROPERTIES, "all"):
        whole, tiled = (np.array([v[key] for v in right[kind]], float) for kind in KINDS)
        rates[key] = {
            "whole": float(whole.mean()),
            "tiled": float(tiled.mean()),
            "difference": float((tiled - whole).mean()),
            # of the difference of two independent shares
            "error": float(np.sqrt((whole.var() + tiled.var()) / count)),
        }
    score = {kind: seams(images, at, stage.factor) for kind, images in made.items()}
    return {
        "count": count,
        "size": list(size),
        "tile": tile,
        "tiles": tiles.count,
        "borders": at,
        "right": rates,
        "seams": {**score, "ratio": score["tiled"] / score["whole"]},
        "pixel_difference": float(
            np.abs(made["tiled"].astype(np.float32) - made["whole"].astype(np.float32)).mean()
        ),
    }


def missed(found: dict) -> list[str]:
    """Return a line for each figure that misses its bar."""
    lines = [
        f"{key}: {one['whole']:.3f} right as a whole and {one['tiled']:.3f} in tiles, which is more"
        f" than {ERRORS:g} standard errors of {one['error']:.3f}"
        for key, one in found["right"].items()
        if abs(one["difference"]) > ERRORS * one["error"]
    ]
    for name in ("tiled", "ratio"):
        if found["seams"][name] > SEAM:
            lines.append(f"seam score, {name}: {found['seams'][name]:.3f}, bar {SEAM}")
    return lines


def report(found: dict) -> str:
    """Return the figures as Markdown."""
    right = measure.table(
        ("right", "whole", "tiled", "difference", "standard error"),
        [
            [key, *(f"{one[name]:.3f}" for name in ("whole", "tiled", "difference", "error"))]
            for key, one in found["right"].items()
        ],
    )
    score = measure.table(
        ("seam score", "whole", "tiled", "ratio"),
        [["across borders over elsewhere", *(f"{x:.3f}" for x in found["seams"].values())]],
    )
    height, width = found["size"]
    what = (
        f"{found['count']} captions, pictures of {height}×{width} in {found['tiles']} tiles of"
        f" {found['tile']} pixels. The two differ by {found['pixel_difference']:.2f} of 255 in the"
        " mean."
    )
    return f"{right}\n\n{score}\n\n{what}"


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkpoint", default="scenes", help="default: %(default)s")
    parser.add_argument(
        "--count", type=int, default=200, metavar="N", help="captions (default: %(default)s)"
    )
    parser.add_argument(
        "--tile", type=int, default=128, metavar="PIXELS", help="default: %(default)s"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures as JSON")
    args = parser.parse_args()
    if args.count < 1:
        parser.error("--count must be at least 1")
    tune_cpu()
    facts = measure.facts()
    found = measured(load(args.checkpoint), args.count, args.tile)
    lines = missed(found)
    print(report(found) + "\n\n" + ", ".join(f"{key} {value}" for key, value in facts.items()))
    if args.json:
        args.json.write_text(json.dumps({**facts, **found, "missed": lines}, indent=1) + "\n")
    for line in lines:
        print(f"tiles: {line}", file=sys.stderr)
    sys.exit(bool(lines))


if __name__ == "__main__":
    main()
