"""The report page of a run: pictures, curves and figures in one self-contained HTML file."""

import json
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from cv3jax.quickstart.report_distilled import section
from cv3jax.reports.plots import QUANTITIES, plot, png_uri
from data_pipeline.io.files import replacing

HERE = Path(__file__).parent  # the directory of the templates
COLUMNS = (  # key of a sample, heading, explanation
    ("base", "Base", "sampled from the caption alone"),
    ("upsampled", "Enlarged ×2", "the base picture, bilinear: no new detail"),
    (
        "round_trip",
        "Round trip",
        "the enlarged picture through the autoencoder: where the relay starts",
    ),
    ("relay", "Relay", "the result: diffusion continued from there"),
)
JUDGED = (  # key of prompt_following, heading, explanation
    ("real", "Real scenes", "what the judge says of the renderer's own pictures"),
    ("vae", "Round trip, small", "real small pictures through the autoencoder: the base's ceiling"),
    ("base", "Base", "sampled from the caption alone"),
    (
        "vae_final",
        "Round trip, large",
        "real large pictures through the autoencoder: the relay's ceiling",
    ),
    (
        "control",
        "Base, enlarged",
        "bilinear ×2 and through the autoencoder: where the relay starts",
    ),
    ("relay", "Relay", "the result"),
)


STAGES = {"vae": "Autoencoder", "base": "Base model", "relay": "Relay model"}


def write_report(
    path: Path,
    report: dict,
    *,
    samples: list[dict],
    curves: dict[str, list[dict]],
    recon: dict[str, tuple[np.ndarray, np.ndarray]],
    next_steps: list[tuple[str, str]],
    distilled: dict | None = None,
) -> None:
    """Write the page of a finished run to `path`.

    report: the content of report.json: "seconds" {name: s, ..., "total": s}, "vae_psnr" {side: dB},
    "environment" {name: text or {name: text}}; and, where judged, "n", "prompt_following" {set:
    {property: share}} and "detail" {set: share}. The sets are those of JUDGED; "detail" also has
    "noise_control" and the standard error "se". Anything else in it is shown as JSON.

    samples: {"prompt": str, "base": uint8 [h, h, 3], and "upsampled", "round_trip", "relay": uint8
    [2h, 2h, 3]}, one per held-out caption. curves: stage → lines of its metrics.jsonl. recon: side
    → (images, round trips), uint8 [N, side, side, 3]. next_steps: (what it does, command).
    distilled: where report has "distilled", what `report_distilled.section` shows beside it. All
    text is escaped.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"png": png_uri, "clock": clock, "plain": plain}
    steps = {name: seconds for name, seconds in report["seconds"].items() if name != "total"}
    page = environment.get_template("report.html.jinja").render(
        report=report,
        samples=samples,
        next_steps=next_steps,
        columns=COLUMNS,
        judged=JUDGED,
        style=Markup((HERE / "report.css").read_text(encoding="utf-8")),
        steps=steps,
        longest=max((seconds or 0.0 for seconds in steps.values()), default=0.0) or 1.0,
        sides={key: samples[0][key].shape[0] for key, _, _ in COLUMNS} if samples else {},
        pairs={
            side: list(zip(images, backs, strict=True)) for side, (images, backs) in recon.items()
        },
        plots=[
            (
                f"{STAGES.get(stage, stage)}: {key if key == 'loss' else key.upper()}",
                plot(lines, key),
            )
            for stage, lines in curves.items()
            for key in QUANTITIES
            if sum(key in line for line in lines) > 1
        ],
        everything=json.dumps(report, indent=2),
        distilled=section(environment, report, distilled) if "distilled" in report else "",
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def clock(seconds: float | None) -> str:
    """Return seconds as people say them: 8.4 s, 2 min 05 s, 1 h 10 min; – for None."""
    if seconds is None:
        return "–"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return (
        f"{minutes} min {rest:02d} s"
        if minutes < 60
        else f"{minutes // 60} h {minutes % 60:02d} min"
    )


def plain(value: object) -> str:
    """Return a value of the environment as one line.

    For example {"jax": "0.10", "flax": "0.12"} gives `jax 0.10, flax 0.12`.
    """
    return (
        ", ".join(f"{name} {text}" for name, text in value.items())
        if isinstance(value, dict)
        else str(value)
    )
