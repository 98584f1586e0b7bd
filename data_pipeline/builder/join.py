"""Rows of metadata and the images they are of, put together."""

import dataclasses
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam

from data_pipeline.builder.blocklist import plain_url
from data_pipeline.builder.measure import Facts
from data_pipeline.sources.fields import names_of, plain_name, same_key, states, value_of

# of rows that disagree on a filter's field, what each filter would rather drop
_STRICTEST = {"unsafe": max, "watermark": max, "aesthetic": min}
_URL = 60  # characters of an example


def key_of(facts: Facts, join_on: str) -> str:
    """What an image is joined on: its key, its URL, or one of its scores."""
    wanted = plain_name(join_on)
    if wanted in names_of("url"):
        return facts.url
    scores = {plain_name(name): value for name, value in facts.scores.items()}
    return same_key(facts.key if wanted == "key" else scores.get(wanted)) or ""


def merge(value: str, groups: dict[str, Iterable[Any]]) -> Iterator[Any]:
    """Each image with the scores, tags and URL that metadata has for it; its own win."""
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
    """All rows of one key as one: what any of them has. Of filters' fields on which they disagree
    the value that is dropped first, so that no table hides what another says; all their tags.
    Several URLs cannot be understood: nobody knows which of them the image is from.
    """
    rows = sorted(rows, key=repr)
    if not rows:
        return None
    scores: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for row in reversed(rows):  # of others the first row's
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
