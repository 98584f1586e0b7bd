"""Training examples that are read from a feature cache instead of being encoded again."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.loading.crops import choose_caption
from data_pipeline.records.feature_cache import Encoded, EncodedSource
from data_pipeline.records.records import Record


@dataclasses.dataclass(frozen=True)
class CachedExamples:
    """A `loader.Prepare` that reads from `cache` what it has, for the records of `source`.

    Attributes:
        cache: the feature cache of the source.
        latents: names of `feature_cache.latent_arrays`; empty where `image` makes pixels as without
            a cache.
        text: whether features replace the caption. With both, `source` is not read at all.
        image: `crops.crop` with captions; with `text`, it takes only the first of several captions.
        recaption_prob: the probability of the recaption where a record has one. The draw and the
            choice are those of a run without a cache.
    """

    cache: EncodedSource
    latents: tuple[str, ...]
    text: bool
    image: Callable[..., dict[str, np.ndarray | str]] | None
    recaption_prob: float

    def __call__(
        self, source: Sequence[Record], index: int, rng: np.random.Generator, size: tuple[int, int]
    ) -> dict[str, np.ndarray | str]:
        """Return the example of record `index`.

        Raises:
            InputError: a record or its entry in the cache is damaged, or the entry is of another
                image or caption.
        """
        encoded = self.cache[index]
        if self.image is not None:
            out = self.image(source, index, rng, size)
            return out | _features(encoded, out.pop("caption"), self.cache)
        record = encoded if self.text else source[index]
        _check_pair(record, encoded, self.cache)
        draw = rng.random(5)[4]
        caption = choose_caption(record, draw, self.recaption_prob, several=not self.text)
        latents = {name: encoded["latents"][name] for name in self.latents}
        out = {**latents, "sizes": encoded["sizes"]}
        return out | (
            _features(encoded, caption, self.cache) if self.text else {"caption": caption}
        )


def _check_pair(record: Mapping[str, Any], encoded: Encoded, cache: EncodedSource) -> None:
    """Raise InputError unless `encoded` is the cache's entry for `record`."""
    if (record["key"], record["sha256"]) != (encoded["key"], encoded["sha256"]):
        raise InputError(
            f"{cache.name} has {encoded['key']!r} where the records have {record['key']!r}; encode"
            " the records again"
        )


def _features(encoded: Encoded, caption: str, cache: EncodedSource) -> dict[str, np.ndarray]:
    for of, arrays in (
        (encoded["recaption"], encoded["recaption_text"]),
        (encoded["caption"], encoded["text"]),
    ):
        if arrays and of == caption:
            return arrays
    raise InputError(
        f"{cache.name} has no features of the present caption of {encoded['key']!r}; encode the"
        " records again"
    )
