"""Votes and figures as files: CSV for spreadsheets, and a page in HTML."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from cv3jax.evaluation.people.controls import winner
from cv3jax.evaluation.people.study import ASPECTS, Study
from cv3jax.evaluation.people.votes import Vote
from data_pipeline.io.files import replacing

HERE = Path(__file__).parent
VOTES, RATES, RATERS, PAGE = "votes.csv", "win_rates.csv", "raters.csv", "report.html"
TITLES = {
    "alignment": "What the text says",
    "quality": "Looks",
    "both": "Both questions together",
}
# a spreadsheet takes a cell that begins so for a formula, and may run it; the last four are wide
# forms of the first ones
_FORMULA = (*"=+-@\t\r\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")
_RATE = (
    *("a", "b", "wins", "ties", "losses", "rate", "low", "high", "low_these", "high_these"),
    *("p", "design_effect", "prompt_icc", "rater_icc"),
)
_RATER = ("name", "votes", "controls", "failed", "changed", "share", "first", "seconds", "excluded")


def write_all(out: Path, study: Study, votes: Sequence[Vote], found: dict[str, Any]) -> list[Path]:
    """Write all files into the directory `out`, each whole or not at all. Returns their paths.

    found: the figures of `analysis.analyse`.
    """
    rates = [
        [name, *(row[key] for key in _RATE)]
        for name, aspect in found["aspects"].items()
        for row in aspect["pairs"]
    ]
    files = {
        VOTES: _csv(_vote_head(), (_vote(study, vote) for vote in votes)),
        RATES: _csv(["aspect", *_RATE], rates),
        RATERS: _csv(_RATER, ([row[key] for key in _RATER] for row in found["raters"])),
        PAGE: page(found),
    }
    for name, text in files.items():
        with replacing(out / name, durable=True) as temporary:
            temporary.write_bytes(text.encode(errors="backslashreplace"))
    return [out / name for name in files]


def _csv(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(head)
    for row in rows:
        writer.writerow([cell(value) for value in row])
    return out.getvalue()


def cell(value: Any) -> Any:
    """Return a value that no spreadsheet takes for a formula; a text may get a ' before it."""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULA):
        return f"'{value}"
    return "" if value is None else value


def _vote_head() -> list[str]:
    return [
        *("rater", "place", "kind", "prompt_number", "prompt", "picture", "left", "right"),
        *ASPECTS,
        *("before", "seconds", "at", "changes"),
    ]


def _vote(study: Study, vote: Vote) -> list[Any]:
    """Return the row of a vote; answers are names of models, or tie."""
    shown, pair = vote.shown, study.pairs[vote.shown.pair]
    answers = []
    for aspect in ASPECTS:
        best = winner(vote, aspect)
        answers.append("tie" if best is None else study.models[best])
    sides = [study.models[shown.left], study.models[shown.right]]
    before = [vote.rater, vote.place, shown.kind, pair.prompt, study.prompts[pair.prompt]]
    after = [shown.before, vote.seconds, round(vote.at, 3), vote.changes]
    return [*before, pair.picture, *sides, *answers, *after]


def page(found: dict[str, Any]) -> str:
    """Return the page of the figures as self-contained HTML. All text is escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"percent": percent, "fixed": fixed}
    style = Markup((HERE / "report.css").read_text(encoding="utf-8"))
    return environment.get_template("report.html.jinja").render(
        found=found, titles=TITLES, style=style
    )


def percent(share: float | None) -> str:
    """Return a share in per cent with a digit after the point; – for None."""
    return "–" if share is None else f"{100 * share:.1f} %"


def fixed(value: float | None, digits: int = 2) -> str:
    """Return a number with so many digits after the point; – for None."""
    return "–" if value is None else f"{value:.{digits}f}".replace("-", "−")
