"""Joining rows of metadata with the images that they describe."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from data_pipeline.builder.blocklist import plain_url
from data_pipeline.builder.measure import Facts
from data_pipeline.sources.fields import names_of, plain_name, same_key, states, value_of

# field → the choice among values of rows that disagree: the one that its filter drops first
_STRICTEST = {"unsafe": max, "watermark": max, "aesthetic": min}
_URL = 60  # characters of an example


def key_of(facts: Facts, join_on: str) -> str:
    """Return the value on which an image is joined: its key, its URL, or one of its scores."""
    wanted = plain_name(join_on)
    if wanted in names_of("url"):
        return facts.url
    scores = {plain_name(name): value for name, value in facts.scores.items()}
    return same_key(facts.key if wanted == "key" else scores.get(wanted)) or ""


def merge(value: str, groups: dict[str, Iterable[Any]]) -> Iterator[Any]:
    """Yield each image with the scores, tags and URL of its metadata; its own take precedence."""
    told = combine(groups["metadata"])
    for unit, facts in groups["rows"]:
        if told and value and not (facts.problem and not facts.sha256):
            facts = _joined(facts, told)
            row = {
                name: getattr(facts, name) for name in ("ordinal", "scores", "url", "unreadable")
            }
            yield beam.pvalue.TaggedOutput("told", (unit, row))
        yield unit, facts


def _joined(facts: Facts, told: dict[str, Any]) -> Facts:
    scores, url = {**told["scores"], **facts.scores}, facts.url or told["url"]
    own = states(facts.url, facts.scores, {})
    wrong = {
        field: shown for field, shown in told["unreadable"].items() if own.get(field) != "read"
    }
    return dataclasses.replace(
        facts, scores=scores, url=url, unreadable={**wrong, **facts.unreadable}
    )


def combine(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    """Return all rows of one key as one row, or None where there are none.

    It has what any of them has. Where rows disagree on a filter's field, the value that the filter
    drops first is taken, so that no table hides what another says; of tags all are taken. Several
    URLs count as unreadable, because it is unknown which of them the image is from.
    """
    rows = sorted(rows, key=repr)
    if not rows:
        return None
    scores: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for row in reversed(rows):  # for other fields the first row's value counts
        scores |= row["scores"]
        unreadable |= row["unreadable"]
    for field, choose in _STRICTEST.items():
        values = [v for row in rows if (v := value_of(row["scores"], field)) is not None]
        scores |= {n: choose(values) for n in scores if plain_name(n) in names_of(field)}
    tags = dict.fromkeys(v for row in rows if (v := value_of(row["scores"], "nsfw")) is not None)
    scores |= {n: ",".join(tags) for n in scores if plain_name(n) in names_of("nsfw")}
    urls = {plain_url(row["url"]): row["url"] for row in reversed(rows) if row["url"]}
    url = next((row["url"] for row in rows if row["url"]), "")
    if len(urls) > 1:
        unreadable.setdefault("url", _shown(sorted(urls.values())))
    return {"scores": scores, "url": url, "unreadable": unreadable}


def _shown(urls: list[str]) -> str:
    return f"url = {', '.join(ascii(url[:_URL]) for url in urls[:2])} of rows of one key"
