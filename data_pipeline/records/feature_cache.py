"""Feature caches: the outputs of the frozen encoders for each record, computed once for training.

A cache has one record for each record of its dataset, in the same order and the same shards: index
i of one is index i of the other. It is a directory of ArrayRecord shards with a TFDS description,
and `encoded.json`, which says what made it:

    records   {"lengths": [records of each shard], "sha256": `sampled_hash`}
    view      {"image_size", "zoom", "crop_grid"}: the middle of every image, as the loader crops
              it; null without latents
    latents   {"dtype", "shape": [h, w, z], "low": bool, "computed": dtype, "vae": fingerprint}, or
              null
    text      {"dtype", "shape": [L, C], "computed": dtype, "t5": fingerprint, "captions":
              `sampled_hash`}, or null

A latent is stored as the mean and standard deviation of its posterior, unscaled, so that training
draws a new sample each time. `low` is the latent of the image after it was halved and enlarged
again, for relays. The deviation is stored and not the log-variance, because a float16 is off by at
most 2^-11 of a deviation, but by 2^-8 of a log-variance between -8 and -16, which is 2^-9 of the
deviation. int8 text has a scale for each token. A record that could not be read when it was encoded
has no arrays.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import ml_dtypes
import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.io.bounded_json import load_json
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.kept_fields import wrong
from data_pipeline.records.identity_fields import IDENTITY as FIELDS
from data_pipeline.records.reading import ExampleSource, find_shards
from data_pipeline.records.records import RecordSource

NAME = "encoded"
ABOUT = (
    "Latents and text features of a cv3jax dataset; encoded.json says how they are stored and what"
    " made them. Of a record's captions the first has features, and its recaption, and no other."
)
IDENTITY = "encoded.json"
FORMAT = 1
MADE_BY = "cv3jax data encode"
MAX_RECORD = 2**31  # bytes of the arrays of a record
SAMPLED = 64  # records whose hash identifies a dataset
_DTYPES = {
    **{name: np.dtype(name) for name in ("float32", "float16", "int8")},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_MOMENTS, _LOW = ("mean", "dev"), ("low_mean", "low_dev")


def _bytes(doc: str) -> tfds.features.Tensor:
    """Return the TFDS feature for an array that is stored as bytes."""
    return tfds.features.Tensor(shape=(), dtype=np.object_, doc=f"{doc}; little-endian, or empty")


FEATURES = tfds.features.FeaturesDict(
    {
        "key": tfds.features.Text(doc="key of the record"),
        "sha256": tfds.features.Text(doc="hex digest of the record's image bytes"),
        "caption": tfds.features.Text(doc="the caption that `text` encodes"),
        "recaption": tfds.features.Text(doc="the caption that `recaption_text` encodes, or empty"),
        "sizes": tfds.features.Tensor(
            shape=(6,),
            dtype=np.int32,
            doc="size conditioning of the image's middle crop; zeros without latents",
        ),
        "mean": _bytes("[h, w, z], mean of the image's posterior"),
        "dev": _bytes("[h, w, z], its standard deviation"),
        "low_mean": _bytes("[h, w, z], mean for the image at half its size, enlarged"),
        "low_dev": _bytes("[h, w, z], its standard deviation"),
        "text": _bytes("[L, C] features of the caption; int8: float32 [L] scales come first"),
        "recaption_text": _bytes("[L, C] features of the recaption"),
    }
)


class Encoded(TypedDict):
    """A record of a feature cache; its arrays have the names that they have in a batch."""

    key: str
    sha256: str
    caption: str
    recaption: str
    sizes: np.ndarray  # int32 [6]
    latents: dict[str, np.ndarray]  # {mean, dev}, for relays also {low_mean, low_dev}; or empty
    text: dict[str, np.ndarray]  # {text}, for int8 {text, text_scale}; or empty
    recaption_text: dict[str, np.ndarray]  # as `text`; empty where there is no recaption


def latent_arrays(identity: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return {name: (shape, dtype)} of a record's latents."""
    if not (latents := identity["latents"]):
        return {}
    kind = (tuple(latents["shape"]), _DTYPES[latents["dtype"]])
    return dict.fromkeys(_MOMENTS + (_LOW if latents["low"] else ()), kind)


def text_arrays(identity: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Return {name: (shape, dtype)} of one caption's features, in the order of their bytes."""
    if not (text := identity["text"]):
        return {}
    shape = tuple(text["shape"])
    scale = {"text_scale": (shape[:1], _DTYPES["float32"])} if text["dtype"] == "int8" else {}
    return {**scale, "text": (shape, _DTYPES[text["dtype"]])}


def payload(identity: Mapping[str, Any], captions: int = 1) -> int:
    """Return the bytes of a record's arrays before compression.

    captions: the number of captions with features.
    """
    return _size(latent_arrays(identity)) + captions * _size(text_arrays(identity))


def _size(arrays: dict[str, tuple[tuple[int, ...], np.dtype]]) -> int:
    """Return the bytes of these arrays."""
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in arrays.values())


def pack(
    record: Mapping[str, Any],
    sizes: np.ndarray,
    latents: Mapping[str, np.ndarray],
    text: Mapping[str, np.ndarray],
    recaption: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """Return the record that a ShardWriter of FEATURES takes.

    The arrays are those of one record, under the names of `latent_arrays` and `text_arrays`, or
    none.
    """
    out = {name: record[name] for name in ("key", "sha256", "caption", "recaption")}
    out |= {name: latents[name].tobytes() if name in latents else b"" for name in _MOMENTS + _LOW}
    joined = {
        name: b"".join(some[part].tobytes() for part in ("text_scale", "text") if part in some)
        for name, some in (("text", text), ("recaption_text", recaption))
    }
    return {**out, **joined, "sizes": sizes}


def sampled_hash(records: RecordSource, fields: tuple[str, ...] = ("key", "sha256")) -> str:
    """Return a hash of these fields of at most SAMPLED records, evenly spaced.

    With captions among the fields, the sizes of the shards are hashed too, because they change when
    any caption does.
    """
    chosen = sorted({i * (len(records) - 1) // (SAMPLED - 1) for i in range(SAMPLED)})
    found = hashlib.sha256()
    if "caption" in fields:
        shards = sorted(Path(records.name).glob("*.array_record-*"))
        found.update(json.dumps([(shard.name, shard.stat().st_size) for shard in shards]).encode())
    for i in chosen:
        record = records[i]
        found.update(json.dumps([record[name] for name in fields]).encode())
    return found.hexdigest()


def described(records: RecordSource) -> dict[str, Any]:
    """Return the `records` entry of encoded.json."""
    return {"lengths": list(records.lengths), "sha256": sampled_hash(records)}


def captions_of(records: RecordSource) -> str:
    """Return the `captions` entry of encoded.json's text."""
    return sampled_hash(records, ("caption", "recaption"))


class EncodedSource(ExampleSource):
    """A feature cache for random access: `len(source)` and `source[i]` → Encoded.

    `identity` is the content of encoded.json. Safe to read from many threads.
    """

    def __init__(self, path: Path, shards: list, identity: dict[str, Any]):
        """Open the shards of the cache at `path`."""
        super().__init__(path, shards, FEATURES)
        self.identity = identity
        self._latents, self._text = latent_arrays(identity), text_arrays(identity)

    def decode(self, example: dict[str, Any]) -> Encoded:
        """Return a record's arrays. Raises ValueError where it has none that it should have."""
        if any(
            not example[name]
            for name, there in (("mean", self._latents), ("text", self._text))
            if there
        ):
            raise ValueError("its image or caption was damaged when it was encoded")
        latents = {
            name: np.frombuffer(example[name], dtype).reshape(shape)
            for name, (shape, dtype) in self._latents.items()
        }
        texts = {name: self._split(example[name]) for name in ("text", "recaption_text")}
        strings = {
            name: example[name].decode() for name in ("key", "sha256", "caption", "recaption")
        }
        return Encoded(sizes=example["sizes"], latents=latents, **texts, **strings)

    def _split(self, data: bytes) -> dict[str, np.ndarray]:
        """Return the arrays in the bytes of one caption's features."""
        out, at = {}, 0
        for name, (shape, dtype) in self._text.items() if data else ():
            count = int(np.prod(shape))
            out[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
            at += count * dtype.itemsize
        if at != len(data):
            raise ValueError(f"{len(data)} bytes of text features where {at} were expected")
        return out


def read_identity(path: Path) -> dict[str, Any]:
    """Return the content of encoded.json in `path`.

    Raises:
        InputError: there is no such file, or it is damaged.
    """
    try:
        identity = load_json(path / IDENTITY)
        if identity["format"] != FORMAT:
            found = str(identity["format"])[:40]
            raise InputError(
                f"{path / IDENTITY} has format {found}, not {FORMAT}; encode the records again"
            )
        if said := wrong(identity, FIELDS):
            raise ValueError(said)
        arrays = {**latent_arrays(identity), **text_arrays(identity)}
        if not arrays or not sum(identity["records"]["lengths"]):
            raise ValueError("no arrays")
        if payload(identity) > MAX_RECORD:
            raise ValueError(f"a record of more than {MAX_RECORD:,} bytes")
    except FileNotFoundError as e:
        raise InputError(
            f"{path} holds no latents or text features: it has no {IDENTITY}; `{MADE_BY} --out"
            f" {path}` makes one"
        ) from e
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as e:
        raise (
            machine_error(e, path / IDENTITY)
            or InputError(
                f"{path / IDENTITY} is damaged ({type(e).__name__}: {first_line(e, 80)}); encode"
                " the records again"
            )
        ) from e
    return identity


def open_cache(path: str | Path, records: RecordSource) -> EncodedSource:
    """Open the feature cache of `records` at `path`.

    Of records in a bucket the shards' lengths are compared alone: reading any would fetch its
    shard. Whoever reads a record compares it with its entry.

    Raises:
        InputError: nothing is there, it is damaged, or it was made from other records. With text
            features, also where captions have changed since.
    """
    path = Path(path)
    identity = read_identity(path)
    source = EncodedSource(path, find_shards(path, FEATURES, MADE_BY), identity)
    apart = hasattr(records, "files")  # in a bucket
    lengths = {**identity["records"], "lengths": list(records.lengths)}
    ours = lengths if apart else described(records)
    if identity["records"] != ours or source.lengths != records.lengths:
        count = sum(identity["records"]["lengths"])
        other = (
            f"{count:,} where there are {len(records):,}"
            if count != len(records)
            else "their keys, images or shards differ"
        )
        raise InputError(
            f"{path} was encoded from other records than {records.name} holds ({other}); encode"
            f" these with `{MADE_BY} --input {records.name}`"
        )
    if apart or not identity["text"]:
        return source
    if identity["text"]["captions"] != captions_of(records):
        raise InputError(
            f"{path} has text features of other captions than {records.name} has now; encode these"
            f" with `{MADE_BY} --input {records.name}`"
        )
    return source
