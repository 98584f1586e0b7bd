"""The metrics by name, what each takes, and how it is opened."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from cv3jax.evaluation.metrics import (
    aesthetic,
    clip_score,
    efficientnet,
    hps,
    image_reward,
    inception,
    ocr,
    scenes_judge,
    scenes_named,
)
from cv3jax.evaluation.metrics.base import Metric
from cv3jax.evaluation.metrics.weight_files import Found, Need, find_all
from data_pipeline.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Spec:
    """A metric that can be opened.

    Attributes:
        name: what `--metrics` takes.
        title: what a report calls it.
        kind: "picture" for a score of each picture, "set" for a distance from a reference.
        open: from the files that were found to the metric.
        needs: the files below `--weights`.
        extra: the extra of setup.py that it takes, or None.
    """

    name: str
    title: str
    kind: Literal["picture", "set"]
    open: Callable[[dict[str, Found]], Metric]
    needs: tuple[Need, ...] = ()
    extra: str | None = "eval"


def _hps(name: str, title: str) -> Spec:
    return Spec(name, title, "picture", functools.partial(hps.open_hps, name), hps.needs(name))


_ALL = (
    Spec("aes", "Aesthetic", "picture", aesthetic.open_aesthetic, aesthetic.NEEDS),
    _hps("hps", "HPS v2.0"),
    _hps("hps21", "HPS v2.1"),
    Spec(
        "imagereward",
        "ImageReward",
        "picture",
        image_reward.open_image_reward,
        image_reward.NEEDS,
    ),
    Spec("clip", "CLIP score", "picture", clip_score.open_clip_score, clip_score.NEEDS),
    Spec("fid", "FID", "set", inception.open_fid, inception.NEEDS),
    Spec("kid", "KID", "set", inception.open_kid, inception.NEEDS),
    Spec("prc", "Precision and recall", "set", inception.open_prc, inception.NEEDS),
    Spec("fdlite", "FD-EffLite0", "set", efficientnet.open_fdlite),
    Spec("ocr", "OCR", "picture", ocr.open_ocr),
    Spec("judge", "Scenes judge", "picture", scenes_judge.open_judge, extra=None),
    Spec("named", "What is named", "picture", scenes_named.open_named, extra=None),
)
METRICS = {spec.name: spec for spec in _ALL}


def spec_of(name: str) -> Spec:
    """Return a metric's spec. Raises InputError, which lists the known ones."""
    if name not in METRICS:
        raise InputError(f"there is no metric {name[:40]!r}; give some of {', '.join(METRICS)}")
    return METRICS[name]


def open_metric(name: str, weights: Path | None) -> Metric:
    """Return the metric `name` with its weights from the directory `weights`.

    Raises:
        InputError: there is no such metric, a file is missing, damaged or of another model, or a
            library is not installed.
    """
    spec = spec_of(name)
    return spec.open(find_all(name, weights, spec.needs) if spec.needs else {})
