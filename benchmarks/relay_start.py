r"""Compare start points of the relay on the scenes, as a table and a picture.

    python launch/sweep.py --config=scenes_relay --workdir runs/ablation -- \
        --config.data.path=runs/quickstart/data/train --config.cascade=runs/quickstart/base \
        --config.init_from=runs/quickstart/base | sh
    python benchmarks/relay_start.py --workdir runs/ablation --out docs

Each start point has a cascade of its own, on the same base. The figures are the judge's.
"""

import argparse
import json
from pathlib import Path

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from cv3jax.cascade.pipeline import load
from cv3jax.cli import run_command
from cv3jax.evaluation.scenes import assess
from cv3jax.quickstart.environment import environment
from data_pipeline.io.errors import InputError

ROWS = (
    ("all", "all of the caption, relay"),
    ("control", "the same, control"),
    ("detail", "texture and outline, relay"),
    ("detail_control", "the same, control"),
    ("detail_noise", "the same, control with noise"),
)


def measure(workdir: Path, count: int, seed: int) -> dict[int, dict]:
    """Return the figures of every finished run under `workdir` by its start point.

    Raises:
        InputError: if there is none.
    """
    found = {}
    for path in sorted(workdir.glob("schedule.start=*/cascade")):
        cascade = load(path)
        start = cascade.description.stages["relay"].start
        figures = assess(cascade, count=count, seed=seed)
        following, detail = figures["prompt_following"], figures["detail"]
        found[start] = {
            "all": following["relay"]["all"],
            "control": following["control"]["all"],
            "detail": detail["relay"],
            "detail_control": detail["control"],
            "detail_noise": detail["noise_control"],
            "detail_se": detail["se"],
        }
        print(f"start {start}: {json.dumps(found[start])}", flush=True)
    if not found:
        raise InputError(
            f"{workdir} has no schedule.start=*/cascade; run the first command of --help"
        )
    return dict(sorted(found.items()))


def table(found: dict[int, dict]) -> str:
    """Return a Markdown table with a row for each start point."""
    lines = [
        "| start | " + " | ".join(text for _, text in ROWS) + " | se of its lead |",
        "|---|" + "---|" * (len(ROWS) + 1),
    ]
    for start, row in found.items():
        lines.append(
            f"| {start} | "
            + " | ".join(f"{row[key]:.3f}" for key, _ in ROWS)
            + f" | {row['detail_se']:.3f} |"
        )
    return "\n".join(lines)


def draw(found: dict[int, dict], path: Path) -> None:
    """Write the figures as a picture to `path`."""
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    for axes, keys, title in (
        (left, ("all", "control"), "all of the caption right"),
        (right, ("detail", "detail_control", "detail_noise"), "texture and outline right"),
    ):
        for key in keys:
            name = {"all": "relay", "detail": "relay", "detail_noise": "control + noise"}.get(
                key, "control"
            )
            axes.plot(
                list(found),
                [row[key] for row in found.values()],
                marker="o" if name == "relay" else None,
                linestyle="-" if name == "relay" else "--",
                label=name,
            )
        axes.set(title=title, xlabel="start of the relay, of 1,000", ylim=(0, None))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend()
    figure.savefig(path, dpi=100)


def main(argv: list[str] | None = None) -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--workdir", required=True, type=Path, help="of the sweep")
    parser.add_argument(
        "--out", required=True, type=Path, help="folder for relay_start.json and relay_start.png"
    )
    parser.add_argument("--count", type=int, default=200, help="held-out captions (default 200)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    print(json.dumps({**environment(), "n": args.count, "seed": args.seed}))
    found = measure(args.workdir, args.count, args.seed)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "relay_start.json").write_text(json.dumps(found, indent=2) + "\n")
    draw(found, args.out / "relay_start.png")
    print(table(found))


if __name__ == "__main__":
    run_command(main)
