"""`cv3jax status`: where a run is, how fast it goes, what it waits for, and when it ends.

It only reads the workdir, so it can be called while the run goes on, or after it, from anywhere.
"""

import itertools
import math
import time
from pathlib import Path
from typing import Any

from cv3jax.commands import arguments as command_line
from cv3jax.training.stored_status import last_lines_of, read_any
from data_pipeline.io import extras
from data_pipeline.io.arguments import Parser, check_name
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import STDOUT, add_json, check_json, reporting
from data_pipeline.io.files import check_file, replacing
from data_pipeline.io.objects.store import address_of
from data_pipeline.io.terminal import tell, visible

EXAMPLE = """cv3jax status runs/base --watch 60
  cv3jax status runs/base --plot base.png
  cv3jax status runs/sweep/*
  cv3jax status s3://bucket/base"""
WIDTH, HEIGHT = 64, 8  # of the plot, in characters
OVER = ("finished", "stopped", "failed", "killed")
_BLOCKS = " ▁▂▃▄▅▆▇█"
SPENT = ("step", "data", "checkpoint", "evaluation", "preview", "compile", "other")


def parser() -> Parser:
    """Return the parser of `cv3jax status`."""
    made = command_line.command("status", __doc__, EXAMPLE)
    made.add_argument(
        "workdir", nargs="+", metavar="WORKDIR", help="of a run; of several, each gets one line"
    )
    made.add_argument(
        "--watch",
        nargs="?",
        type=int,
        const=10,
        metavar="SECONDS",
        help="print it again every so many seconds until all runs are over (default: 10)",
    )
    made.add_argument(
        "--plot",
        type=Path,
        metavar="FILE.png",
        help=(
            "also draw the run's curves into this file: losses, held-out losses by noise level,"
            " images a second, MFU, learning rates and norms of the gradient"
        ),
    )
    add_json(made)
    return made


def main(argv: list[str] | None = None) -> None:
    """Print the status of runs. Raises InputError on workdirs without a run."""
    args = parser().parse_args(argv)
    check_json(args.json)
    if args.watch is not None and args.watch < 1:
        raise InputError(f"--watch {args.watch}: must be 1 or more")
    if args.watch is not None and args.json == STDOUT:
        raise InputError("--watch does not go with --json -, which prints one object")
    if args.plot is not None:
        if len(args.workdir) > 1:
            raise InputError("--plot is of one run; give one WORKDIR")
        if args.plot.suffix != ".png":
            raise InputError(f"--plot {args.plot}: give a name that ends with .png")
        check_file(args.plot, "--plot")
        extras.check("--plot", "matplotlib")
    for one in args.workdir:
        if address_of(one):
            continue
        check_name(one, "WORKDIR")
        if not Path(one).is_dir():
            raise InputError(f"WORKDIR {one}: there is no such directory")
    with reporting(args.json) as report:
        while True:
            found = [read_any(one) for one in args.workdir]
            if len(found) == 1:
                tell("\n".join(lines(found[0])))
                if args.plot is not None:
                    write_plot(args.plot, found[0])
            else:
                tell("\n".join(map(short, found)))
            if args.watch is None or all(one["state"] in OVER for one in found):
                break
            time.sleep(args.watch)
            tell()
        report({"runs": found})


def write_plot(path: Path, status: dict[str, Any]) -> None:
    """Write the curves of a run as a PNG. Raises InputError where it has no line yet."""
    from cv3jax.reports.run_plot import run_plot

    said = f"{status['workdir']}: {status['name'] or 'a run'}, {_progress(status)}"
    try:
        picture = run_plot(last_lines_of(status["workdir"]), visible(said, 120))
    except ValueError as e:
        raise InputError(f"--plot: {status['workdir']}: {e} yet") from e
    with replacing(path) as temporary:
        temporary.write_bytes(picture)


def short(status: dict[str, Any]) -> str:
    """Return a status in one line."""
    loss = f", loss {status['losses'][-1][1]:.4g}" if status["losses"] else ""
    return f"{status['workdir']}: {_state(status)}, {_progress(status)}{loss}"


def lines(status: dict[str, Any]) -> list[str]:
    """Return a status as the lines of a page."""
    figures, saved, best = (status[name] for name in ("figures", "checkpoint", "best"))
    shown = [
        f"{status['workdir']}: {status['name'] or 'a run'}, {_state(status)}",
        f"  {'progress':<12}{_progress(status)}",
    ]

    def row(name: str, text: str) -> None:
        if text:
            shown.append(f"  {name:<12}{visible(text, 300)}")

    row("speed", _speed(status))
    if total := figures.get("seconds"):
        spent = {kind: figures.get(f"seconds_{kind}", 0.0) / total for kind in SPENT}
        row("goodput", f"{spent['step']:.1%} of {duration(total)} in steps")
        rest = (f"{kind} {share:.1%}" for kind, share in spent.items() if kind != "step" and share)
        row("the rest", ", ".join(rest))
    row("memory", _memory(figures))
    if rates := [f"{name} {x:.3g}" for name, x in figures.items() if name.split("/")[0] == "lr"]:
        row("rates", ", ".join(rates))
    age = saved and duration(saved["age_seconds"])
    row("checkpoint", f"step {saved['step']:,}, {age} ago" if saved else "none yet")
    if best and isinstance(best["value"], float):
        row("best", f"{best['metric']} {best['value']:.4g} at step {best['step']:,}")
    if held := status["heldout"]:
        each = (f"{name[8:]} {x:.4g}" for name, x in held.items() if name != "step")
        row("held out", f"step {held['step']:,}: {', '.join(each)}")
    for one in status["changes"]:
        row("changed", f"from step {one['step']:,}: {one['field']} {one['was']} → {one['now']}")
    return shown + plot(status["losses"])


def plot(losses: list[list[float]]) -> list[str]:
    """Return a curve of [step, loss] pairs in block characters; [] of fewer than two."""
    if len(losses) < 2:
        return []
    columns = min(WIDTH, len(losses))
    ends = [round(i * len(losses) / columns) for i in range(columns + 1)]
    means = [sum(loss for _, loss in losses[a:b]) / (b - a) for a, b in itertools.pairwise(ends)]
    low, high = min(means), max(means)
    span = (high - low) or 1.0
    eighths = [max(1, round((mean - low) / span * 8 * HEIGHT)) for mean in means]
    rows = [
        "".join(_BLOCKS[min(max(one - 8 * row, 0), 8)] for one in eighths)
        for row in reversed(range(HEIGHT))
    ]
    labels = [f"{high:.4g}", *[""] * (HEIGHT - 2), f"{low:.4g}"]
    drawn = [f"  {label:>10} │{row}" for label, row in zip(labels, rows, strict=True)]
    return ["", *drawn, f"  {'loss':>10} └ steps {losses[0][0]:,} to {losses[-1][0]:,}"]


def duration(seconds: float) -> str:
    """Return seconds in the two largest units, such as "3 h 20 min"."""
    if not math.isfinite(seconds):
        return "unknown time"
    whole = round(seconds)
    for size, unit, part, small in ((86400, "d", 3600, "h"), (3600, "h", 60, "min")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // part} {small}"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def _state(status: dict[str, Any]) -> str:
    doing = visible(status["doing"], 200)
    return f"{status['state']} ({doing})" if doing else status["state"]


def _progress(status: dict[str, Any]) -> str:
    step, steps = status["step"], status["steps"]
    text = f"step {step:,} of {steps:,} ({step / steps:.1%})" if steps else f"step {step:,}"
    eta = status["eta_seconds"]
    return text if eta is None else f"{text}, {duration(eta)} left"


def _speed(status: dict[str, Any]) -> str:
    figures, pace = status["figures"], status["seconds_per_step"]
    parts = [] if pace is None else [f"{pace:.3g} s a step"]
    if "images_per_second" in figures:
        each = figures.get("images_per_second_per_chip", 0.0)
        parts.append(f"{figures['images_per_second']:.4g} images/s ({each:.4g} a chip)")
    if "tflops_per_chip" in figures:
        parts.append(f"{figures['tflops_per_chip']:.3g} TFLOP/s a chip")
    if "mfu" in figures:
        parts.append(f"MFU {figures['mfu']:.1%}")
    return ", ".join(parts)


def _memory(figures: dict[str, float]) -> str:
    names = {
        "memory_host_gb": "host",
        "memory_host_free_gb": "free on the host",
        "memory_device_used_gb": "device",
        "memory_device_peak_gb": "device's peak",
    }
    known = [f"{label} {figures[name]:.2f} GB" for name, label in names.items() if name in figures]
    return ", ".join(known)
