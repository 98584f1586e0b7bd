"""`ocr`: how much of the text that a prompt quotes is read back from the picture.

A prompt such as `a sign that says "OPEN"` asks for text. PP-OCRv6 of the package rapidocr reads the
picture. The score is 1 − edits/characters over all quotations of the prompt: the fewest edits that
turn a quotation into some part of what was read. More text in the picture costs nothing, and the
case of letters does not count. A prompt without a quotation has no score (NaN).
"""

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from cv3jax.evaluation.metrics.base import PictureMetric, versions
from cv3jax.evaluation.metrics.weight_files import Found
from cv3jax.weights.digests import digest_of
from data_pipeline.io import extras
from data_pipeline.io.errors import InputError

# an apostrophe opens no quotation, and closes one only before something that is no letter
_QUOTED = re.compile(
    r'"([^"]+)"|“([^”]+)”|«([^»]+)»|「([^」]+)」|„([^“”]+)[“”]|\u2018([^\u2019]+)\u2019(?!\w)'
    r"|(?<!\w)'([^']+(?:'\w[^']*)*)'(?!\w)"
)
_MODELS = {
    "Det.model_path": "PP-OCRv6_det_small.onnx",
    "Cls.model_path": "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
    "Rec.model_path": "PP-OCRv6_rec_small.onnx",
}


def open_ocr(found: dict[str, Found]) -> PictureMetric:
    """Return the metric `ocr`. Raises InputError where the package's models are missing."""
    del found  # none of --weights
    extras.check("the metric ocr", "rapidocr", "onnxruntime", extra="eval")
    import rapidocr

    folder = Path(rapidocr.__file__).parent / "models"
    if missing := [name for name in _MODELS.values() if not (folder / name).is_file()]:
        raise InputError(f"{folder / missing[0]} is missing; install cv3jax[eval] again")
    # with the places given, it never looks for a download
    places = {key: str(folder / name) for key, name in _MODELS.items()}
    reader = rapidocr.RapidOCR(params={"Global.log_level": "critical"} | places)

    def score(images: Sequence[Image], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        pairs = zip(images, prompts, strict=True)
        return {"ocr": np.array([one(image, prompt) for image, prompt in pairs], np.float64)}

    def one(image: Image, prompt: str) -> float:
        wanted = quotations(prompt)
        return share(wanted, _read(reader, image)) if wanted else np.nan

    protocol: dict[str, Any] = {
        "metric": "ocr",
        "weights": {name: digest_of(folder / name) for name in _MODELS.values()},
        "compared": "NFKC, lower case, fewest edits to a part of the text that was read",
        "versions": versions("rapidocr", "onnxruntime", "opencv-python-headless", "pillow"),
    }
    excluded = "prompts without quoted text have no score"
    return PictureMetric("ocr", "higher", protocol, score, excluded)


def quotations(prompt: str) -> list[str]:
    """Return the texts that a prompt has in quotation marks, in order."""
    found = (next(filter(None, each.groups())).strip() for each in _QUOTED.finditer(prompt))
    return [each for each in found if plain(each)]


def share(wanted: Sequence[str], seen: str) -> float:
    """Return the share 0..1 of the characters of all `wanted` that were read. See the module."""
    texts = [plain(each) for each in wanted]
    edits = sum(_edits(each, plain(seen)) for each in texts)
    return 1 - edits / sum(map(len, texts))


def plain(text: str) -> str:
    """Return a text for comparison: NFKC, lower case, and single spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def _edits(wanted: str, seen: str) -> int:
    """Return the fewest insertions, deletions and replacements from `wanted` to a part of `seen`.

    Sellers' algorithm: the table of Levenshtein with a first row of zeros.
    """
    row = [0] * (len(seen) + 1)
    for i, letter in enumerate(wanted, 1):
        before, row = row, [i]
        for j, other in enumerate(seen, 1):
            row.append(min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != other)))
    return min(row)


def _read(reader: Any, image: Image) -> str:
    """Return the lines that were read, in their order, with spaces between."""
    result = reader(np.asarray(image)[:, :, ::-1].copy())  # it takes BGR
    return " ".join(result.txts or ())
