"""Facts of an image → the reason to leave it out, or none."""

from collections.abc import Callable
from typing import NamedTuple

from data_pipeline.builder.blocklist import blocker
from data_pipeline.builder.measure import Facts
from data_pipeline.builder.settings import Settings

EXACT, NEAR = "exact_duplicate", "near_duplicate"
# The names sources give to one score: LAION's own, its aesthetic subsets', DataComp's and
# img2dataset's.
_UNSAFE, _WATERMARK = (
    ("punsafe", "nsfw_score", "unsafe"),
    ("pwatermark", "watermark", "watermark_score"),
)
_AESTHETIC, _NSFW = ("aesthetic", "aesthetic_score", "aesthetics"), ("nsfw",)
# reasons whose pictures no report shows
UNSEEN = ("blocked_source", "nsfw", "unsafe", "no_unsafe_score")


class Drop(NamedTuple):
    reason: str
    detail: str


def make_judge(settings: Settings, sources: tuple[str, ...]) -> Callable[[Facts], Drop | None]:
    """The filters in the order of Settings.

    `sources` are the blocked ones, as `read_blocked` gives them.
    """
    blocked = blocker(sources)
    tags = settings.tags()
    bounds = (
        ("unsafe", _UNSAFE, None, settings.max_unsafe),
        ("watermark", _WATERMARK, None, settings.max_watermark),
        ("aesthetic", _AESTHETIC, settings.min_aesthetic, None),
    )

    def judge(facts: Facts) -> Drop | None:
        if found := blocked(facts.url):
            return Drop("blocked_source", found)
        if tags and (tag := _named(facts, _NSFW)) is not None and str(tag).lower() in tags:
            return Drop("nsfw", str(tag))
        for reason, names, low, high in bounds:
            if low is None and high is None:
                continue
            score = _named(facts, names)
            if not isinstance(score, int | float):
                if settings.require_scores and not facts.problem:
                    return Drop(f"no_{reason}_score", f"none of {', '.join(names)}")
            elif (low is not None and score < low) or (high is not None and score > high):
                return Drop(reason, f"{score:g}")
        if facts.problem:
            return Drop(facts.problem, facts.detail)
        return _measures(facts, settings)

    return judge


def _named(facts: Facts, names: tuple[str, ...]) -> float | str | None:
    scores = {name.lower(): value for name, value in facts.scores.items()}
    return next((scores[name] for name in names if name in scores), None)


def _measures(facts: Facts, settings: Settings) -> Drop | None:
    short, long = sorted((facts.width, facts.height))
    size = f"{facts.width}x{facts.height}"
    rules = (
        (
            "caption_short",
            settings.min_caption,
            facts.caption,
            lambda v, bound: v >= bound,
            f"{facts.caption} characters",
        ),
        (
            "caption_long",
            settings.max_caption,
            facts.caption,
            lambda v, bound: v <= bound,
            f"{facts.caption} characters",
        ),
        (
            "caption_repetition",
            settings.max_repetition,
            facts.repetition,
            lambda v, bound: v <= bound,
            f"{facts.repetition:.2f}",
        ),
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
