"""What a recaptioning reports: counts, reasons, tokens and cost, of one process or of all."""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

from data_pipeline.chat.answers import Answer, Failure
from data_pipeline.recaption.journal import Totals
from data_pipeline.recaption.settings import RecaptionSettings
from data_pipeline.records.records import Record

_EXAMPLES = 20  # examples per reason in the report


@dataclasses.dataclass
class Summary:
    """How many records have a new caption, and why the others have none."""

    recaptioned: int = 0
    reasons: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)

    def add(self, record: Record, outcome: Answer | Failure) -> None:
        """Count the result of a record."""
        if isinstance(outcome, Answer):
            self.recaptioned += 1
            return
        self.reasons[outcome.reason] += 1
        if len(lines := self.examples.setdefault(outcome.reason, [])) < _EXAMPLES:
            lines.append(f"{record['key']}: {outcome.detail}" if outcome.detail else record["key"])

    def figures(self) -> dict[str, Any]:
        """Return the counts as the report has them."""
        return {
            "recaptioned": self.recaptioned,
            "reasons": dict(sorted(self.reasons.items())),
            "examples": dict(sorted(self.examples.items())),
        }

    def __str__(self) -> str:
        """Return the reasons in one line, the commonest first, with an example."""
        first = next(iter(self.examples.values()), [""])[0]
        said = ", ".join(f"{n} × {reason}" for reason, n in self.reasons.most_common())
        return f"{said} (such as {first})"


def spent(totals: Totals, settings: RecaptionSettings) -> dict[str, Any]:
    """Return requests, retries, tokens and cost as the report has them."""
    price_in, price_out = settings.price_in, settings.price_out
    cost = (
        None
        if price_in is None
        else (totals.prompt_tokens * price_in + totals.completion_tokens * price_out) / 1e6
    )
    tokens = {
        "prompt": totals.prompt_tokens,
        "completion": totals.completion_tokens,
        "unmeasured": totals.unmeasured,
    }
    return {
        "requests": totals.requests,
        "retries": totals.retries,
        "tokens": tokens,
        "cost": None if cost is None else round(cost, 6),
    }


def merged(reports: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the report of the dataset whose parts these `reports` are about.

    Counts, tokens, cost and requests per second are sums; seconds are those of the slowest part.
    """
    reasons: collections.Counter[str] = collections.Counter()
    examples: dict[str, list[str]] = {}
    for report in reports:
        reasons.update(report["reasons"])
        for reason, lines in report["examples"].items():
            examples[reason] = (examples.get(reason, []) + lines)[:_EXAMPLES]
    costs = [report["cost"] for report in reports]
    sums = ("records", "recaptioned", "requests", "retries", "requests_per_second")
    return {
        **reports[0],
        **{name: sum(report[name] for report in reports) for name in sums},
        "reasons": dict(sorted(reasons.items())),
        "examples": dict(sorted(examples.items())),
        "tokens": {
            name: sum(report["tokens"][name] for report in reports) for name in reports[0]["tokens"]
        },
        "cost": None if None in costs else round(sum(costs), 6),
        "seconds": max(report["seconds"] for report in reports),
    }
