"""The report's section on distillation: what it saves, what it costs, and where it pays."""

import jinja2
import numpy as np
from markupsafe import Markup

from cv3jax.evaluation.distilled_scenes import FULL
from cv3jax.reports.plots import Timed, png_uri, quality_plot, times_plot

# a sampler counts as an alternative where it takes at most so many times as long
AS_FAST = 1.2
HEADINGS = {
    True: "Where it pays",
    False: "Where it does not",
    None: "What these figures do not tell apart",
}


def section(environment: jinja2.Environment, report: dict, shown: dict) -> Markup:
    """Return the section on distillation, from a template of `environment`.

    report: with "distilled" and "single_stage" as `assess_distilled` returns them, and "n". shown:
    "prompts", "rows" {sampler: uint8 [N, S, S, 3], N as many as prompts} and "quality" {stage: its
    quality.json}.
    """
    rows, single = report["distilled"], report["single_stage"]
    page = environment.get_template("report_distilled.html.jinja").render(
        n=report["n"],
        rows=rows,
        single=single,
        names={name: label(name, row) for name, row in rows.items()},
        full=rows[FULL],
        cells=cells,
        prompts=shown["prompts"],
        summary=summary(rows, single),
        verdicts=verdicts(rows, shown["quality"]),
        pictures={
            name: [png_uri(image) for image in images] for name, images in shown["rows"].items()
        },
        plots={
            stage: quality_plot(quality["rows"], quality["full"])
            for stage, quality in shown["quality"].items()
        },
        times=times_plot(timed(rows)),
    )
    return Markup(page)


def timed(rows: dict) -> list[Timed]:
    """Return the samplers of a report as points of the plot of distance against time."""
    return [
        Timed(
            label(name, row).split(" ", 1)[1],
            name.startswith("distilled"),
            1000 * denoising(row),
            row["image_distance"],
        )
        for name, row in rows.items()
    ]


def label(name: str, row: dict) -> str:
    """Return the name of a sampler for people."""
    what = name.split("_")[0].capitalize()
    how = "conditioned\xa0on\xa0w" if what == "Distilled" else "guided"
    how = "w\xa0=\xa01" if unguided(row) else how
    return f"{what} {plus(row)}, {how}"


def unguided(row: dict) -> bool:
    """Return whether guidance has no effect."""
    return all(w == 1.0 for w in row["guidance"])


def plus(row: dict) -> str:
    """Return the steps of a sampler: 4 + 1."""
    return "\xa0+\xa0".join(map(str, row["steps"]))


def denoising(row: dict) -> float:
    """Return the seconds per image of the denoising steps, of all stages."""
    return row["seconds"]["base"] + row["seconds"].get("relay", 0.0)


def cells(row: dict, full: dict) -> list[str]:
    """Return a row of the table; – where the quality was not measured."""
    quality = ["–"] * 3
    if "all" in row:
        quality = [
            f"{100 * row['all']:.1f}",
            share(row["all"], full["all"]),
            f"{row['image_distance']:.4f}",
        ]
    times = [(denoising(row), denoising(full)), (row["seconds"]["total"], full["seconds"]["total"])]
    return quality + [
        text for ours, theirs in times for text in (f"{1000 * ours:.1f}", f"{theirs / ours:.1f}")
    ]


def share(part: float, whole: float) -> str:
    """Return a part as a percentage of the whole."""
    return f"{100 * part / whole:.0f} %" if whole else "–"


def summary(rows: dict, single: dict) -> list[str]:
    """Return sentences that compare the last round with the full sampler and a single stage."""
    full, row = rows[FULL], rows[last(rows)]
    change = f"{100 * (row['all'] - full['all']):+.1f}".replace("-", "−")
    total, rest = row["seconds"]["total"], row["seconds"]["total"] - denoising(row)
    return [
        (
            f"Distilled to {plus(row)} steps it keeps {share(row['all'], full['all'])} of the full"
            f" sampler's score ({plus(full)} steps, guided) and denoises"
            f" {denoising(full) / denoising(row):.1f} times as fast. The difference of the scores"
            f" is {change} points, with a standard error of {100 * row['se']:.1f}."
        ),
        (
            f"A whole picture comes {full['seconds']['total'] / total:.1f} times as fast: text,"
            f" autoencoder and what is between them take {1000 * rest:.1f} of its"
            f" {1000 * total:.1f} ms, and no distillation shortens that. A single-stage model of"
            f" the same width at {single['side']}² would take"
            f" {1000 * single['seconds']['total']:.0f} ms for {single['steps']} guided steps,"
            f" {single['seconds']['total'] / total:.1f} times as long (only its time was measured:"
            " no such model was trained)."
        ),
    ]


def last(rows: dict) -> str:
    """Return the distilled sampler with the fewest steps and the full sampler's guidance."""
    return [
        name
        for name, row in rows.items()
        if name.startswith("distilled") and row["guidance"] == rows[FULL]["guidance"]
    ][-1]


def verdicts(rows: dict, quality: dict) -> dict[str, list[str]]:
    """Return {heading: sentences} on each distilled sampler and each stage.

    Each distilled sampler is compared with undistilled ones that have as many steps or are as fast.
    Each stage is also compared by itself.
    """
    found: list[tuple[bool | None, str]] = []
    for name, row in rows.items():
        twin = rows.get(f"un{name}")
        if (
            not name.startswith("distilled")
            or twin is None
            or row["guidance"] != rows[FULL]["guidance"]
        ):
            continue
        ours, theirs = denoising(row), denoising(twin)
        found.append(
            (
                less(ours, theirs),
                (
                    f"{plus(row)}: {1000 * ours:.1f} ms of denoising an image, undistilled"
                    f" {1000 * theirs:.1f} ms."
                ),
            )
        )
        found += beside(row, twin, f"{plus(row)}, beside the undistilled sampler in as many steps")
        rival = as_fast(rows, row)
        if rival is not None and rival is not twin:
            guided = "without guidance" if unguided(rival) else "guided"
            found += beside(
                row,
                rival,
                f"{plus(row)}, beside undistilled {plus(rival)} {guided}, which takes about as"
                " long",
            )
    for stage, one in quality.items():
        theirs = {
            line["steps"]: line["distance"]["all"] for line in one["rows"] if line["round"] is None
        }
        for line in one["rows"]:
            if line["round"] is not None and line["steps"] in theirs:
                ours, other = line["distance"]["all"], theirs[line["steps"]]
                text = (
                    f"The {stage} alone in {line['steps']}: its latents are {ours:.3f} from the"
                    f" full sampler's, undistilled {other:.3f}."
                )
                found.append((less(ours, other), text))
    return {
        heading: [text for verdict, text in found if verdict is which]
        for which, heading in HEADINGS.items()
    }


def less(ours: float, theirs: float) -> bool | None:
    """Return whether ours is less; None where they are equal."""
    return None if ours == theirs else ours < theirs


def beside(row: dict, other: dict, where: str) -> list[tuple[bool | None, str]]:
    """Return [(whether it is better, sentence)] of a distilled sampler's score and likeness.

    They are compared with another sampler's. The first is None where the figures do not show it.
    """
    score = less(other["all"], row["all"])
    leads = np.subtract(row["right"], other["right"])  # caption by caption
    if abs(leads.mean()) <= 2 * leads.std(ddof=1) / np.sqrt(len(leads)):
        score = None
    near = less(row["image_distance"], other["image_distance"])
    right = f"{100 * row['all']:.1f} % right, undistilled {100 * other['all']:.1f} %"
    close = (
        f"pictures {row['image_distance']:.4f} from the full sampler's, undistilled"
        f" {other['image_distance']:.4f}"
    )
    if score is near:
        return [(score, f"{where}: {right}; {close}.")]
    return [(score, f"{where}: {right}."), (near, f"{where}: {close}.")]


def as_fast(rows: dict, row: dict) -> dict | None:
    """Return the undistilled sampler nearest to the full one among those as fast as `row`."""
    some = [
        one
        for name, one in rows.items()
        if name.startswith("undistilled") and denoising(one) <= AS_FAST * denoising(row)
    ]
    return min(some, key=lambda one: one["image_distance"], default=None)
