"""The page a run leaves behind: pictures, curves and figures in one HTML file that loads nothing
from anywhere.
"""

import json
from pathlib import Path

import jinja2
import numpy as np
from markupsafe import Markup

from cv3jax.quickstart.report_distilled import section
from cv3jax.reports.plots import QUANTITIES, plot, png_uri
from data_pipeline.io.errors import naming

COLUMNS = (  # key of a sample, heading, what one sees
    ("base", "Base", "sampled from the caption alone"),
    ("upsampled", "Enlarged ×2", "the base picture, bilinear: no new detail"),
    ("round_trip", "Round trip", "that through the autoencoder: where the relay starts"),
    ("relay", "Relay", "the result: diffusion continued from there"),
)
JUDGED = (  # key of prompt_following, heading, what one sees
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

    report: what report.json holds: "seconds" {name: s, ..., "total": s}, "vae_psnr" {side: dB},
    "environment" {name: text or {name: text}}; and, where judged, "n", "prompt_following" {set:
    {property: share}} and "detail" {set: share} (sets as in JUDGED; "noise_control" and the
    standard error "se" too in "detail"). Whatever else it holds is shown as JSON.
    samples: {"prompt": str, "base": uint8 [h, h, 3], and "upsampled",
    "round_trip", "relay": uint8 [2h, 2h, 3]}, one a held-out caption. curves: stage → lines of its
    metrics.jsonl. recon: side → (images, round trips), uint8 [N, side, side, 3]. next_steps: (what
    it does, command). distilled: where report has "distilled", what `report_distilled.section`
    shows beside it. Text is shown as text, whatever is in it.
    """
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"png": png_uri, "clock": clock, "plain": plain}
    steps = {name: seconds for name, seconds in report["seconds"].items() if name != "total"}
    page = environment.from_string(_PAGE).render(
        report=report,
        samples=samples,
        next_steps=next_steps,
        columns=COLUMNS,
        judged=JUDGED,
        style=Markup(_STYLE),
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
    temporary = path.with_suffix(".tmp")
    with naming(temporary):
        temporary.write_text(page, encoding="utf-8")
    temporary.replace(path)


def clock(seconds: float | None) -> str:
    """Seconds as people say them: 8.4 s, 2 min 05 s, 1 h 10 min; – when not measured."""
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
    """A value of the environment as one line: {"jax": "0.10", "flax": "0.12"} → jax 0.10, flax
    0.12.
    """
    return (
        ", ".join(f"{name} {text}" for name, text in value.items())
        if isinstance(value, dict)
        else str(value)
    )


_STYLE = """
:root { color-scheme: light dark; --page: #f6f7fb; --card: #fff; --text: #1a1d2b; --soft: #5b6178; --line: #e2e5ef; --accent: #4f5fe8; }
@media (prefers-color-scheme: dark) {
  :root { --page: #10121a; --card: #191c27; --text: #e9ebf4; --soft: #9aa1b9; --line: #2b3041; --accent: #93a0ff; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 20px 80px; }
h1 { font-size: clamp(26px, 5vw, 38px); line-height: 1.15; margin: 0 0 14px; letter-spacing: -.02em; }
h2 { font-size: 21px; margin: 52px 0 6px; letter-spacing: -.01em; }
p { max-width: 74ch; margin: 0 0 12px; } .soft { color: var(--soft); }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 18px; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(145px, 1fr)); gap: 12px; margin-top: 24px; }
.tile b { display: block; font-size: clamp(19px, 4.4vw, 25px); line-height: 1.3; letter-spacing: -.02em; }
.tile span, .heads span, figcaption { display: block; color: var(--soft); font-size: 13.5px; line-height: 1.4; }
.heads, .four { display: grid; grid-template-columns: repeat(4, minmax(0, 1fr)); gap: 12px; }
.heads { position: sticky; top: 0; z-index: 1; background: var(--page); padding: 10px 19px; border-bottom: 1px solid var(--line); }
.sample { margin-top: 14px; } .caption { font-weight: 600; max-width: none; overflow-wrap: anywhere; } figure { margin: 0; }
img { display: block; width: 100%; aspect-ratio: 1; image-rendering: pixelated; border-radius: 8px; outline: 1px solid var(--line); }
figcaption { display: none; padding-top: 5px; } .last img { outline: 2px solid var(--accent); }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; }
.plots svg { display: block; width: 100%; height: auto; } .plots text { font-family: inherit !important; }
h3 { font-size: 15px; margin: 0 0 8px; } ol { padding-left: 22px; } li { margin-bottom: 12px; }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: 7px 10px; border-bottom: 1px solid var(--line); }
tr:last-child > * { border-bottom: 0; } td.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
th { font-weight: 500; color: var(--soft); vertical-align: top; } td { overflow-wrap: anywhere; }
.wide { overflow-x: auto; } th.n { text-align: right; }
.ways { display: grid; grid-template-columns: 150px repeat(var(--columns), minmax(96px, 1fr)); gap: 8px; }
.ways > * { font-size: 13.5px; line-height: 1.4; }
.ways > span { color: var(--soft); } .ways > b { align-self: center; font-weight: 600; }
.lists { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr)); gap: 14px; margin: 14px 0; }
.lists ul { margin: 0; padding-left: 18px; } .lists li { margin-bottom: 6px; }
tr.total > * { font-weight: 650; color: inherit; }
.bar { width: 50%; } .bar i { display: block; height: 9px; border-radius: 5px; background: var(--accent); min-width: 2px; }
.strip { display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: 8px; } .strip div { display: grid; gap: 4px; }
pre { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 14px; margin: 6px 0; }
pre { white-space: pre-wrap; font: 13.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; overflow-wrap: anywhere; }
summary { margin-top: 28px; cursor: pointer; color: var(--soft); }
@media (max-width: 640px) {
  main { padding-top: 24px; } .heads { display: none; } .four { grid-template-columns: 1fr 1fr; } figcaption { display: block; }
  .card { padding: 14px; } .bar { display: none; }
}
"""


_PAGE = """<!doctype html>
<html lang="en"><head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>cv3jax: pictures from captions, trained here</title>
<style>{{ style }}</style>
</head><body><main>
<h1>Pictures from captions, trained from nothing on this machine</h1>
<p>cv3jax is CogView3 (arXiv:2403.05121) in JAX. This run trained an autoencoder, a base model that draws small pictures from captions,
and a relay model that takes the picture at twice the side, adds noise, and removes it together with the blur: that adds the detail the
small one cannot hold.
{% if distilled %}
Both were then distilled, to draw in a fraction of the steps.
{% endif %}
Training began at random weights; none were downloaded.</p>
<div class="tiles">
  <div class="card tile"><b>{{ report.seconds.total | clock }}</b><span>from nothing to this page</span></div>
{% for side, value in report.vae_psnr.items() %}
  <div class="card tile"><b>{{ "%.1f" | format(value) }} dB</b><span>autoencoder PSNR at {{ side }}²</span></div>
{% endfor %}
{% if samples %}
  <div class="card tile"><b>{{ sides.base }}² → {{ sides.relay }}²</b><span>base, then relay</span></div>
{% endif %}
</div>

{% if samples %}
<section>
<h2>Captions the models never saw</h2>
<p class="soft">Held out from training. All pictures are shown at the same size, unsmoothed.</p>
<div class="heads">
{% for key, name, text in columns %}
  <div><b>{{ name }}, {{ sides[key] }}²</b><span>{{ text }}</span></div>
{% endfor %}
</div>
{% for sample in samples %}
<div class="card sample">
  <p class="caption">{{ sample.prompt }}</p>
  <div class="four">
{% for key, name, text in columns %}
    <figure{% if loop.last %} class="last"{% endif %}>
      <img src="{{ sample[key] | png }}" alt="{{ name }}: {{ sample.prompt }}">
      <figcaption><b>{{ name }}, {{ sides[key] }}²</b> {{ text }}</figcaption>
    </figure>
{% endfor %}
  </div>
</div>
{% endfor %}
</section>
{% endif %}

{% if report.prompt_following is defined %}
<section>
<h2>How often it is right</h2>
<p class="soft">A program looked at {{ report.n }} pictures of other held-out captions, half of them plain, half textured, and compared
what it saw with the caption. Per cent right; “all” is a picture right in every column before it. Texture and outline can only be told
at the large size.</p>
<div class="card wide"><table>
<tr><th></th>{% for key in report.prompt_following.real %}<th class="n">{{ key }}</th>{% endfor %}<th class="n">texture, outline</th></tr>
{% for key, name, text in judged %}
<tr><th scope="row"><b>{{ name }}</b><br>{{ text }}</th>
{% for value in report.prompt_following[key].values() %}
<td class="n">{{ "%.0f" | format(100 * value) }}</td>
{% endfor %}
<td class="n">{{ "%.0f" | format(100 * report.detail[key]) if key in report.detail else "–" }}</td></tr>
{% endfor %}
</table></div>
<p class="soft">White noise as strong as what the relay changes would give {{ "%.0f" | format(100 * report.detail.noise_control) }} in the
last column; the standard error of the relay's lead is {{ "%.1f" | format(100 * report.detail.se) }}.</p>
</section>
{% endif %}

{{ distilled }}
{% if plots %}
<section>
<h2>Training</h2>
<p class="soft">Each point is a mean over one logging interval; the bold line is their running mean.</p>
<div class="plots">
{% for title, svg in plots %}
  <div class="card"><h3>{{ title }}</h3>{{ svg }}</div>
{% endfor %}
</div>
</section>
{% endif %}

<section>
<h2>What the autoencoder keeps</h2>
<p class="soft">Mean PSNR of images after one round trip.{% if pairs %} Above, the image; below, what came back.{% endif %}</p>
{% for side, value in report.vae_psnr.items() %}
<div class="card sample">
  <h3>{{ side }}²: {{ "%.2f" | format(value) }} dB</h3>
  <div class="strip">
{% for image, back in pairs.get(side, []) %}
    <div><img src="{{ image | png }}" alt="image"><img src="{{ back | png }}" alt="after the round trip"></div>
{% endfor %}
  </div>
</div>
{% endfor %}
</section>

<section>
<h2>Where the time went</h2>
<p class="soft">Cumulative over restarts, compilation included.</p>
<div class="card"><table>
{% for name, seconds in steps.items() %}
<tr><th scope="row">{{ name }}</th><td class="bar"><i style="width: {{ "%.1f" | format(100 * (seconds or 0) / longest) }}%"></i></td>
<td class="n">{{ seconds | clock }}</td></tr>
{% endfor %}
<tr class="total"><th scope="row">total</th><td class="bar"></td><td class="n">{{ report.seconds.total | clock }}</td></tr>
</table></div>
</section>

<section>
<h2>What to do next</h2>
<ol>
{% for text, command in next_steps %}
  <li>{{ text }}<pre>{{ command }}</pre></li>
{% endfor %}
</ol>
</section>

<section>
<h2>Made on</h2>
<div class="card"><table>
{% for name, value in report.environment.items() %}
<tr><th scope="row">{{ name }}</th><td>{{ value | plain }}</td></tr>
{% endfor %}
</table></div>
</section>

<details><summary>All figures, as in report.json</summary><pre>{{ everything }}</pre></details>
</main></body>
</html>
"""
