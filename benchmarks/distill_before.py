"""Compare a distillation step with that of another checkout, and with its bare passes.

    git worktree add ../before 070e9da
    python benchmarks/distill_before.py --before ../before

Both steps and both updates are made as in distill.py, from the code of their checkout, with the
same recipe, batch and weights. Each runs in a process of its own, and they take turns. Those of
this checkout are also divided by its passes. A turn is `--steps` steps: muon's turns and renewals
make a step differ from the next. --config.FIELD=VALUE changes this checkout's recipe alone.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import distill
import measure

from cv3jax.distributed.backend import tune_cpu

PARTS = ("step", "update")


def serve(name: str, kind: str, part: str, sizes: tuple[int, int], fields: list[str]) -> None:
    """Run one part of a step on request, as `measure.serve` does."""
    tune_cpu()
    batch, steps = sizes
    some = distill.pieces(distill.load(name, batch, *fields), kind)
    call = distill.seconds(some, steps, (part,))[part]
    measure.serve({}, call)


def compare(
    name: str, kind: str, before: Path, *, sizes: tuple[int, int], rounds: int, fields: list[str]
) -> dict:
    """Return the seconds of both checkouts' steps and updates, and of this one's passes.

    sizes: of a batch, and the steps of a turn.
    """
    batch, steps = sizes

    def command(part: str, given: list[str]) -> list[str]:
        place = [sys.executable, __file__, "--batch", str(batch), "--steps", str(steps)]
        return [*place, "--serve", name, kind, part, *given]

    now = {part: command(part, fields) for part in (*PARTS, "teacher", "student")}
    then = {f"{part} before": command(part, []) for part in PARTS}
    path = os.environ.get("PYTHONPATH", "")
    with (
        measure.workers(now, {"PYTHONPATH": f"{measure.ROOT}:{path}"}) as ours,
        measure.workers(then, {"PYTHONPATH": f"{before}:{path}"}) as theirs,
    ):
        sides = {**ours, **theirs}
        for side in sides.values():
            side()
        took = measure.turns(
            sides, rounds, lambda line: print(f"{name}, {kind}: {line}", file=sys.stderr)
        )
    passes = [a + b for a, b in zip(took["teacher"], took["student"], strict=True)]
    return {
        "recipe": name,
        "kind": kind,
        "batch": batch,
        "seconds": took,
        "of_before": measure.ratios(took["step"], took["step before"]),
        "update_of_before": measure.ratios(took["update"], took["update before"]),
        "of_passes": measure.ratios(took["step"], passes),
        "of_passes_before": measure.ratios(took["step before"], passes),
    }


def table(rows: list[dict]) -> str:
    """Return a Markdown table with a row for each recipe and kind; seconds are medians."""
    head = ("", "update before, s", "update, s", "step before, s", "step, s", "step, of before")
    head += ("before, of passes", "of passes")
    lines = []
    for row in rows:
        took = {name: measure.spread(values) for name, values in row["seconds"].items()}
        names = ("update before", "update", "step before", "step")
        medians = [f"{took[name].median:.3f}" for name in names]
        ratios = (row["of_before"], row["of_passes_before"], row["of_passes"])
        lines.append((f"{row['recipe']}, {row['kind']}", *medians, *ratios))
    return measure.table(head, lines)


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--before", type=Path, metavar="CHECKOUT")
    parser.add_argument("--recipe", action="append", help="may be repeated (default: the base's)")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=8, help="steps of a turn")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--serve", nargs="+", help=argparse.SUPPRESS)
    args, fields = parser.parse_known_args()
    if args.serve:
        name, kind, part, *given = args.serve
        serve(name, kind, part, (args.batch, args.steps), given)
        return
    wrong = [field for field in fields if not field.startswith("--config.")]
    if wrong or min(args.batch, args.rounds, args.steps) < 1:
        few = "--batch, --rounds and --steps: at least 1"
        parser.error(f"unknown: {' '.join(wrong)}" if wrong else few)
    if args.before is None or not (args.before / "cv3jax").is_dir():
        parser.error(f"--before {args.before}: give a directory with another checkout")
    facts = measure.facts("optax")
    facts["before"] = measure.revision(args.before) or "none"
    print(json.dumps(facts, indent=2))
    given = [field.removeprefix("--config.") for field in fields]
    before, sizes = args.before.resolve(), (args.batch, args.steps)
    rows = [
        compare(name, kind, before, sizes=sizes, rounds=args.rounds, fields=given)
        for name in args.recipe or distill.RECIPES[:1]
        for kind in distill.KINDS
    ]
    print(table(rows))
    measure.write_json(args.json, {**facts, "fields": given, "rows": rows})


if __name__ == "__main__":
    main()
