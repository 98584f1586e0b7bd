"""The metrics by name, what each takes, and how one is opened.

Only `open_metric` imports the metrics themselves, so that a wrong name is answered at once.
"""

import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cv3jax.evaluation.metrics import needs
from cv3jax.evaluation.metrics.needs import Need
from data_pipeline.io.errors import InputError

if TYPE_CHECKING:
    from cv3jax.evaluation.metrics.base import Metric


@dataclasses.dataclass(frozen=True)
class Spec:
    """A metric that can be opened.

    Attributes:
        name: what `--metrics` takes.
        title: what a report calls it.
        kind: "picture" for a score of each picture, "set" for a distance from a reference.
        needs: the files below `--weights`.
        extra: the extra of setup.py that it takes, or None.
    """

    name: str
    title: str
    kind: Literal["picture", "set"]
    needs: tuple[Need, ...] = ()
    extra: str | None = "eval"


_ALL = (
    Spec("aes", "Aesthetic", "picture", (needs.AESTHETIC, needs.CLIP)),
    Spec("hps", "HPS v2.0", "picture", (needs.HPS, *needs.CLIP_TOKENIZER)),
    Spec("hps21", "HPS v2.1", "picture", (needs.HPS_21, *needs.CLIP_TOKENIZER)),
    Spec("imagereward", "ImageReward", "picture", (needs.IMAGE_REWARD, needs.BERT)),
    Spec("clip", "CLIP score", "picture", (needs.CLIP, *needs.CLIP_TOKENIZER)),
    Spec("fid", "FID", "set", (needs.INCEPTION,)),
    Spec("kid", "KID", "set", (needs.INCEPTION,)),
    Spec("prc", "Precision and recall", "set", (needs.INCEPTION,)),
    Spec("fdlite", "FD-EffLite0", "set"),
    Spec("ocr", "OCR", "picture"),
    Spec("judge", "Scenes judge", "picture", extra=None),
    Spec("named", "What is named", "picture", extra=None),
)
METRICS = {spec.name: spec for spec in _ALL}


def spec_of(name: str) -> Spec:
    """Return a metric's spec. Raises InputError, which lists the known ones."""
    if name not in METRICS:
        raise InputError(f"there is no metric {name[:40]!r}; give some of {', '.join(METRICS)}")
    return METRICS[name]


def open_metric(name: str, weights: Path | None) -> "Metric":
    """Return the metric `name` with its weights from the directory `weights`.

    Raises:
        InputError: there is no such metric, a file is missing, damaged or of another model, or a
            library is not installed.
    """
    spec = spec_of(name)
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
        weight_files,
    )

    openers = {
        "aes": aesthetic.open_aesthetic,
        "hps": functools.partial(hps.open_hps, "hps"),
        "hps21": functools.partial(hps.open_hps, "hps21"),
        "imagereward": image_reward.open_image_reward,
        "clip": clip_score.open_clip_score,
        "fid": inception.open_fid,
        "kid": inception.open_kid,
        "prc": inception.open_prc,
        "fdlite": efficientnet.open_fdlite,
        "ocr": ocr.open_ocr,
        "judge": scenes_judge.open_judge,
        "named": scenes_named.open_named,
    }
    return openers[name](weight_files.find_all(name, weights, spec.needs) if spec.needs else {})
