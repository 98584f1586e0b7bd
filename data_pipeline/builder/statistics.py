"""Statistics of items, which can be added up: counts by reason, histograms, sources, examples."""

import bisect
import collections
import dataclasses
import hashlib
import itertools
import urllib.parse
from typing import Any

from data_pipeline.builder.measure import Facts
from data_pipeline.sources.fields import FILTERED, states

KEPT = "kept"
# lower bounds of the bins
SIDES = (0, 64, 128, 256, 384, 512, 768, 1024, 1536, 2048, 4096)  # shorter side, pixels
ASPECTS = (0.0, 1 / 4, 1 / 3, 1 / 2, 2 / 3, 4 / 5, 5 / 4, 3 / 2, 2.0, 3.0, 4.0)  # width over height
CAPTIONS = (0, 10, 20, 40, 80, 160, 320, 640, 1280)  # characters
HISTOGRAMS = {"sides": SIDES, "aspects": ASPECTS, "captions": CAPTIONS}
SOURCES = 2000  # sources that are counted per unit; the rarest beyond are counted together
EXAMPLES = {KEPT: 40}  # examples on the report's page, by reason
_EXAMPLES = 12


class Statistics:
    """Counts of items read, kept, and dropped by reason, and their properties."""

    def __init__(self):
        """Start with no items."""
        self.items = self.kept = self.kept_bytes = self.joined = 0
        self.reasons: collections.Counter[str] = collections.Counter()
        self.histograms = {
            name: {"read": [0] * len(bounds), KEPT: [0] * len(bounds)}
            for name, bounds in HISTOGRAMS.items()
        }
        self.sources: dict[str, collections.Counter[str]] = {
            "read": collections.Counter(),
            KEPT: collections.Counter(),
        }
        # source (inputs.Unit.source) → a filter's field → counts
        self.fields: dict[str, dict[str, collections.Counter[str]]] = {}
        self.unreadable: collections.Counter[str] = collections.Counter()  # items, by field
        self.unread: dict[str, str] = {}  # an example of each
        self.broken: list[list[str]] = []  # truncated files: name, how
        self.examples: dict[str, list[dict]] = {}

    def add(self, unit: str, facts: Facts, decision: dict, source: str = "") -> None:
        """Add an item of a unit of a source, and the decision on it."""
        reason = decision.get("reason", KEPT)
        self.items += 1
        groups = ["read"]
        if reason == KEPT:
            self.kept += 1
            self.kept_bytes += facts.bytes
            groups.append(KEPT)
        else:
            self.reasons[reason] += 1
        self.joined += "scores" in decision
        if (
            facts.problem.startswith("damaged_")
            and facts.place is None
            and facts.problem != "damaged_text_or_json"
        ):
            self.broken.append([unit, facts.detail])
        values = {"captions": facts.caption} if facts.sha256 else {}
        if facts.width:
            values |= {
                "sides": min(facts.width, facts.height),
                "aspects": facts.width / facts.height,
            }
        for group in groups:
            for name, value in values.items():
                self.histograms[name][group][bisect.bisect_right(HISTOGRAMS[name], value) - 1] += 1
            if facts.sha256:
                self.sources[group][source_of(decision.get("url", facts.url))] += 1
        if facts.sha256:
            self._tell(source, facts, decision)
        self._show(reason, unit, facts, decision)

    def _tell(self, source: str, facts: Facts, decision: dict) -> None:
        told = [
            decision.get(name, getattr(facts, name)) for name in ("url", "scores", "unreadable")
        ]
        fields = self.fields.setdefault(
            source, {field: collections.Counter() for field in FILTERED}
        )
        for field, state in states(*told).items():
            fields[field][state] += 1
        self.unreadable.update(told[2].keys())
        self._name(told[2])

    def _name(self, examples: dict[str, str]) -> None:
        """Keep the smallest example of each field, which does not depend on the order of units."""
        for field, shown in examples.items():
            self.unread[field] = min(shown, self.unread.get(field, shown))

    def _show(self, reason: str, unit: str, facts: Facts, decision: dict) -> None:
        # ordered by a digest, so that the sample does not depend on the order of units
        order = hashlib.sha256(f"{unit}:{facts.ordinal}:{facts.key}".encode()).hexdigest()[:16]
        place = facts.place and dataclasses.asdict(facts.place)
        self.examples.setdefault(reason, []).append(
            {
                "order": order,
                "unit": unit,
                "key": decision.get("key", facts.key),
                "detail": decision.get("detail", ""),
                "place": place,
                "twin": decision.get("twin"),
                "caption": facts.excerpt,
                "url": decision.get("url", facts.url),
                "size": f"{facts.width}x{facts.height}" if facts.width else "",
            }
        )
        if len(self.examples[reason]) > 2 * EXAMPLES.get(reason, _EXAMPLES):
            self._trim(reason)

    def _trim(self, reason: str) -> None:
        self.examples[reason] = sorted(self.examples[reason], key=lambda e: e["order"])[
            : EXAMPLES.get(reason, _EXAMPLES)
        ]

    def merge(self, other: dict[str, Any]) -> None:
        """Add the statistics that `to_json` returned elsewhere."""
        for name in ("items", "kept", "kept_bytes", "joined"):
            setattr(self, name, getattr(self, name) + other[name])
        self.reasons.update(other["reasons"])
        self.broken += other["broken"]
        for source, fields in other["fields"].items():
            mine = self.fields.setdefault(source, {})
            for field, counts in fields.items():
                mine.setdefault(field, collections.Counter()).update(counts)
        self.unreadable.update(other["unreadable"])
        self._name(other["unread"])
        for name, groups in other["histograms"].items():
            for group, counts in groups.items():
                self.histograms[name][group] = [
                    a + b for a, b in zip(self.histograms[name][group], counts, strict=True)
                ]
        for group, counts in other["sources"].items():
            self.sources[group].update(counts)
        for reason, examples in other["examples"].items():
            self.examples.setdefault(reason, []).extend(examples)
            self._trim(reason)

    def to_json(self) -> dict[str, Any]:
        """Return the statistics as JSON."""
        for reason in self.examples:
            self._trim(reason)
        most = {group: counts.most_common() for group, counts in self.sources.items()}
        sources = {group: dict(counts[:SOURCES]) for group, counts in most.items()}
        for group, counts in most.items():
            if rest := sum(n for _, n in counts[SOURCES:]):
                sources[group]["(others)"] = sources[group].get("(others)", 0) + rest
        return {
            "items": self.items,
            "kept": self.kept,
            "kept_bytes": self.kept_bytes,
            "joined": self.joined,
            "reasons": dict(sorted(self.reasons.items())),
            "histograms": self.histograms,
            "sources": sources,
            "broken": self.broken,
            "fields": self.fields,
            "unreadable": dict(sorted(self.unreadable.items())),
            "unread": self.unread,
            "examples": dict(sorted(self.examples.items())),
        }


def source_of(url: str) -> str:
    """Return the host from which an image came, without "www."."""
    try:
        host = urllib.parse.urlsplit(url).hostname or ""
    except ValueError:  # not a valid address
        host = ""
    return host.removeprefix("www.")[:120] or "(none)"


def bins(bounds: tuple[float, ...]) -> list[str]:
    """Return the names of a histogram's bins."""
    names = [f"{x:g}" if x == int(x) else f"{x:.2f}" for x in bounds]
    return [f"{low} to {high}" for low, high in itertools.pairwise(names)] + [
        f"{names[-1]} or more"
    ]
