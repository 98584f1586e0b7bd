"""Run the ablations of the relay cascade on scenes by `cv3jax ablate`, and keep their figures.

    python benchmarks/ablations.py --out runs/ablations --json benchmarks/results/ablations.json \
        > benchmarks/results/ablations.md

Words after `--` are given to the command, such as --config.runs=runs/trained. A run in the same
--out resumes. A table of each group is printed.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path

import measure

from cv3jax import recipes
from cv3jax.evaluation.ablations.columns import columns_of, signed
from cv3jax.evaluation.page import number


def rows(group: dict) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of a group's table, with the differences from its first."""
    columns = columns_of(group)
    head = ["variant"]
    for column in columns:
        head += [column, "difference"]
    lines = []
    for name, one in group["variants"].items():
        cells = [name]
        for column in columns:
            cells += [number(one["figures"][column]["value"]), told(one, column)]
        far = one.get("distance")
        lines.append([*cells, "" if far is None else interval(far)])
    return [*head, "pictures differ by"], lines


def told(one: dict, column: str) -> str:
    """Return the difference from a group's first variant with its interval."""
    found = one.get("differences", {}).get(column)
    if found is None:
        return ""
    if found["low"] is None:
        return signed(found["difference"])
    return f"{signed(found['difference'])} ({signed(found['low'])} to {signed(found['high'])})"


def interval(figure: dict) -> str:
    """Return a figure with its interval."""
    return f"{figure['value']:.4f} ({figure['low']:.4f} to {figure['high']:.4f})"


def in_order(groups: dict) -> dict:
    """Return the groups and their variants in the order of the recipe; JSON has them by name."""
    points = [(one["group"], one["name"]) for one in recipes.sweep_points("scenes_ablations")]
    found = {}
    for name in dict.fromkeys(group for group, _ in points if group in groups):
        known = groups[name]["variants"]
        names = [title for group, title in points if group == name and title in known]
        found[name] = {**groups[name], "variants": {title: known[title] for title in names}}
    return found


def tables(found: dict) -> str:
    """Return all groups as Markdown."""
    parts = []
    for name, group in found["groups"].items():
        lines = [f"{name}:", ""]
        if group["variants"]:
            lines += [measure.table(*rows(group)), ""]
        lines += [f"left out: {title}: {why}" for title, why in group["left_out"].items()]
        parts.append("\n".join(lines).rstrip())
    return "\n\n".join(parts)


def main() -> None:
    """Run, print the tables, and write the result file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("more", nargs="*", help="words for cv3jax ablate, after --")
    args = parser.parse_args()
    figures = args.out / "figures.json"
    args.out.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "cv3jax", "ablate", "--config=scenes_ablations"]
    command += ["--out", str(args.out), "--json", str(figures), *args.more]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    found = json.loads(figures.read_text())
    found["groups"] = in_order(found["groups"])
    for group in found["groups"].values():
        for one in group["variants"].values():
            del one["folder"], one["better"]
            for figure in one["figures"].values():
                del figure["protocol"]
    kept = {"facts": measure.facts("numpy", "scipy", "pillow"), **found}
    print(f"{tables(kept)}\n\n{', '.join(f'{name} {one}' for name, one in kept['facts'].items())}")
    if args.json:
        args.json.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
