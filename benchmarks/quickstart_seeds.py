r"""Compare the figures of several quickstarts in a Markdown table.

    for seed in 0 1 2; do
        cv3jax quickstart --workdir runs/seed_$seed --seed $seed \
            --install-seconds $(cat .venv/.done)
    done
    python benchmarks/quickstart_seeds.py runs/seed_*/report.json

The reports are those of finished quickstarts.
"""

import argparse
from pathlib import Path

from cv3jax.cli import run_command
from data_pipeline.io.files import read_json


def share(part: float, whole: float) -> float:
    """Return part / whole, or NaN if `whole` is 0."""
    return part / whole if whole else float("nan")


def cell(form: str, value: float) -> str:
    """Return a figure as it is printed, with a space before a percent sign."""
    return form.format(value).replace("%", " %")


ROWS = (
    *(
        (f"autoencoder at {side}²: PSNR, dB", lambda r, side=side: r["vae_psnr"][side], "{:.1f}")
        for side in ("64", "128")
    ),
    ("minutes in all, set-up included", lambda r: r["seconds"]["total"] / 60, "{:.1f}"),
    (
        "round trip of real pictures at 64²: all",
        lambda r: r["prompt_following"]["vae"]["all"],
        "{:.1%}",
    ),
    ("round trip of real pictures at 128²: detail", lambda r: r["detail"]["vae_final"], "{:.1%}"),
    *(
        (f"base: {key}", lambda r, key=key: r["prompt_following"]["base"][key], "{:.1%}")
        for key in ("colour", "shape", "size", "position", "count", "background", "all")
    ),
    ("control: all", lambda r: r["prompt_following"]["control"]["all"], "{:.1%}"),
    ("relay: all", lambda r: r["prompt_following"]["relay"]["all"], "{:.1%}"),
    (
        "relay: all, as a share of the control's",
        lambda r: share(*(r["prompt_following"][name]["all"] for name in ("relay", "control"))),
        "{:.0%}",
    ),
    ("control: detail", lambda r: r["detail"]["control"], "{:.1%}"),
    ("control with noise: detail", lambda r: r["detail"]["noise_control"], "{:.1%}"),
    ("relay: detail", lambda r: r["detail"]["relay"], "{:.1%}"),
    ("standard error of the relay's lead in detail", lambda r: r["detail"]["se"], "{:.1%}"),
)


def main(argv: list[str] | None = None) -> None:
    """Print the table from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("reports", nargs="+", type=Path, metavar="report.json")
    args = parser.parse_args(argv)
    reports = [read_json(path) for path in args.reports]
    settings = [read_json(path.parent / "quickstart.json") for path in args.reports]
    for report in reports:
        environment = report["environment"]
        print(
            ", ".join(
                f"{name} {environment[name]}" for name in ("date", "machine", "python", "jax")
            )
            + f", n = {report['n']}"
        )
    print(
        "\n| |"
        + "|".join(f" seed {s['seed']} " for s in settings)
        + "|\n|---|"
        + "---|" * len(reports)
    )
    for name, value, form in ROWS:
        print(f"| {name} | " + " | ".join(cell(form, value(report)) for report in reports) + " |")


if __name__ == "__main__":
    run_command(main)
