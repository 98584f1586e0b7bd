"""The filters: from the facts of an image to the reason to leave it out, or None."""

from collections.abc import Callable
from typing import NamedTuple

from data_pipeline.builder.blocklist import blocker
from data_pipeline.builder.measure import Facts
from data_pipeline.builder.settings import Settings
from data_pipeline.sources.fields import names_of, value_of
from data_pipeline.sources.values import plain_tags

EXACT, NEAR = "exact_duplicate", "near_duplicate"
# a source's field → the setting whose filter uses it
ASKED_BY = {
    "url": "blocked_sources",
    "nsfw": "nsfw_tags",
    "unsafe": "max_unsafe",
    "watermark": "max_watermark",
    "aesthetic": "min_aesthetic",
}
# reasons whose pictures the report does not show
UNSEEN = ("blocked_source", "nsfw", "unsafe", "no_unsafe_score")


class Drop(NamedTuple):
    """The reason to leave an image out, and a detail for the report."""

    reason: str
    detail: str


def make_judge(settings: Settings, sources: tuple[str, ...]) -> Callable[[Facts], Drop | None]:
    """Return the function that applies the filters to an image's facts, in the order of Settings.

    sources: the blocked sources, as `read_blocked` returns them.
    """
    blocked = blocker(sources)
    tags = settings.tags()
    bounds = (
        ("unsafe", None, settings.max_unsafe),
        ("watermark", None, settings.max_watermark),
        ("aesthetic", settings.min_aesthetic, None),
    )

    def judge(facts: Facts) -> Drop | None:
        if found := blocked(facts.url):
            return Drop("blocked_source", found)
        tag = value_of(facts.scores, "nsfw") if tags else None
        if isinstance(tag, str) and plain_tags(tag) & tags:
            return Drop("nsfw", tag)
        for reason, low, high in bounds:
            if low is None and high is None:
                continue
            score = value_of(facts.scores, reason)
            if not isinstance(score, int | float):
                if settings.require_scores and not facts.problem:
                    return Drop(f"no_{reason}_score", f"none of {', '.join(names_of(reason))}")
            elif (low is not None and score < low) or (high is not None and score > high):
                return Drop(reason, f"{score:g}")
        if facts.problem:
            return Drop(facts.problem, facts.detail)
        return _measures(facts, settings)

    return judge


def fitting_captions(facts: Facts, settings: Settings) -> list[int]:
    """Return which of an image's captions pass the filters on captions; the first caption is 0."""
    captions = [(facts.caption, facts.repetition), *facts.others]
    return [i for i, each in enumerate(captions) if not _caption_drop(*each, settings)]


def _caption_drop(characters: float, repetition: float, settings: Settings) -> Drop | None:
    if settings.min_caption and characters < settings.min_caption:
        return Drop("caption_short", f"{characters} characters")
    if settings.max_caption and characters > settings.max_caption:
        return Drop("caption_long", f"{characters} characters")
    if settings.max_repetition is not None and repetition > settings.max_repetition:
        return Drop("caption_repetition", f"{repetition:.2f}")
    return None


def _measures(facts: Facts, settings: Settings) -> Drop | None:
    if not fitting_captions(facts, settings):
        return _caption_drop(facts.caption, facts.repetition, settings)
    short, long = sorted((facts.width, facts.height))
    size = f"{facts.width}x{facts.height}"
    rules = (
        (
            "too_few_bytes",
            settings.min_bytes,
            facts.bytes,
            lambda v, bound: v >= bound,
            f"{facts.bytes:,} bytes",
        ),
        ("min_side", settings.min_side, short, lambda v, bound: v >= bound, size),
        ("aspect", settings.max_aspect, long / short, lambda v, bound: v <= bound, size),
        (
            "animation",
            None if settings.keep_animations else False,
            facts.animated,
            lambda v, bound: v == bound,
            size,
        ),
        (
            "uniform",
            settings.min_contrast,
            facts.contrast,
            lambda v, bound: v >= bound,
            f"contrast {facts.contrast:g}",
        ),
    )
    for reason, bound, value, fine, detail in rules:
        if bound is not None and not fine(value, bound):
            return Drop(reason, detail)
    return None
