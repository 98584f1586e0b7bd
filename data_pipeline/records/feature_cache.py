"""Companion datasets: what the frozen encoders make of each record, so that training need not make
it again.

A companion has one record for each record of the dataset it was made of, in the same order and the
same shards: index i of the one is index i of the other. It is a directory of ArrayRecord shards
under a TFDS description, and `encoded.json`, which says what made it:

    records   {"lengths": [records of each shard], "sha256": `sampled_hash`}
    view      {"image_size", "zoom", "crop_grid"}: the middle of every image, as the loader crops
              it; null without latents
    latents   {"dtype", "shape": [h, w, z], "low": bool, "computed": dtype, "vae": fingerprint}, or
              null
    text      {"dtype", "shape": [L, C], "computed": dtype, "t5": fingerprint, "captions":
              `sampled_hash`}, or null

A latent is its posterior's mean and standard deviation, unscaled, so that training samples it anew
each time; `low` is that of the image shrunk to half and enlarged again, for relays. The deviation
and not the log-variance: a float16 is off by 2^-11 of a deviation at most, and by 2^-8 of a
log-variance between -8 and -16, which is 2^-9 of the deviation. int8 text has a scale for each
token. A record that could not be read when it was encoded has no arrays.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

import ml_dtypes
import numpy as np
import tensorflow_datasets as tfds

from data_pipeline.io.errors import InputError, first_line, machine_error
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
SAMPLED = 64  # records that tell one dataset from another
_DTYPES = {
    **{name: np.dtype(name) for name in ("float32", "float16", "int8")},
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
}
_MOMENTS, _LOW = ("mean", "dev"), ("low_mean", "low_dev")


def _bytes(doc: str) -> tfds.features.Tensor:
    return tfds.features.Tensor(shape=(), dtype=np.object_, doc=f"{doc}; little-endian, or empty")


FEATURES = tfds.features.FeaturesDict(
    {
        "key": tfds.features.Text(doc="of the record"),
        "sha256": tfds.features.Text(doc="of the record's image bytes"),
        "caption": tfds.features.Text(doc="what `text` is of"),
        "recaption": tfds.features.Text(doc="what `recaption_text` is of, or empty"),
        "sizes": tfds.features.Tensor(
            shape=(6,),
            dtype=np.int32,
            doc="the loader's, of the image's middle; zeros without latents",
        ),
        "mean": _bytes("[h, w, z], of the image's posterior"),
        "dev": _bytes("[h, w, z], standard deviation"),
        "low_mean": _bytes("[h, w, z], of the image at half its size, enlarged"),
        "low_dev": _bytes("[h, w, z], standard deviation"),
        "text": _bytes("[L, C] features of the caption; int8: float32 [L] scales come first"),
        "recaption_text": _bytes("[L, C] features of the recaption"),
    }
)


class Encoded(TypedDict):
    """A companion record, its arrays by the names that a batch has them under."""

    key: str
    sha256: str
    caption: str
    recaption: str
    sizes: np.ndarray  # int32 [6]
    latents: dict[str, np.ndarray]  # {mean, dev} and for relays {low_mean, low_dev}; or nothing
    text: dict[str, np.ndarray]  # {text}, with int8 {text, text_scale}; or nothing
    recaption_text: dict[str, np.ndarray]  # likewise; nothing where there is no recaption


def latent_arrays(identity: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Name → (shape, dtype) of a record's latents."""
    if not (latents := identity["latents"]):
        return {}
    kind = (tuple(latents["shape"]), _DTYPES[latents["dtype"]])
    return dict.fromkeys(_MOMENTS + (_LOW if latents["low"] else ()), kind)


def text_arrays(identity: Mapping[str, Any]) -> dict[str, tuple[tuple[int, ...], np.dtype]]:
    """Name → (shape, dtype) of one caption's features, in the order of their bytes."""
    if not (text := identity["text"]):
        return {}
    shape = tuple(text["shape"])
    scale = {"text_scale": (shape[:1], _DTYPES["float32"])} if text["dtype"] == "int8" else {}
    return {**scale, "text": (shape, _DTYPES[text["dtype"]])}


def payload(identity: Mapping[str, Any], captions: int = 1) -> int:
    """Bytes of a record's arrays, with features of so many captions, before ArrayRecord compresses
    them.
    """
    return _size(latent_arrays(identity)) + captions * _size(text_arrays(identity))


def _size(arrays: dict[str, tuple[tuple[int, ...], np.dtype]]) -> int:
    return sum(int(np.prod(shape)) * dtype.itemsize for shape, dtype in arrays.values())


def pack(
    record: Mapping[str, Any],
    sizes: np.ndarray,
    latents: Mapping[str, np.ndarray],
    text: Mapping[str, np.ndarray],
    recaption: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """What a ShardWriter of FEATURES takes.

    The arrays are one record's, as `latent_arrays` and `text_arrays` name them, or nothing.
    """
    out = {name: record[name] for name in ("key", "sha256", "caption", "recaption")}
    out |= {name: latents[name].tobytes() if name in latents else b"" for name in _MOMENTS + _LOW}
    joined = {
        name: b"".join(some[part].tobytes() for part in ("text_scale", "text") if part in some)
        for name, some in (("text", text), ("recaption_text", recaption))
    }
    return {**out, **joined, "sizes": sizes}


def sampled_hash(records: RecordSource, fields: tuple[str, ...] = ("key", "sha256")) -> str:
    """A hash of these fields of at most SAMPLED records, evenly spread.

    With captions, of the shards' sizes too, which change with any.
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
    """The `records` entry of the identity."""
    return {"lengths": list(records.lengths), "sha256": sampled_hash(records)}


def captions_of(records: RecordSource) -> str:
    """The `captions` entry of the identity's text."""
    return sampled_hash(records, ("caption", "recaption"))


class EncodedSource(ExampleSource):
    """Random access: `len(source)` and `source[i]` → Encoded. `identity` is what encoded.json says.

    Safe to read from many threads.
    """

    def __init__(self, path: Path, shards: list, identity: dict[str, Any]):
        super().__init__(path, shards, FEATURES)
        self.identity = identity
        self._latents, self._text = latent_arrays(identity), text_arrays(identity)

    def decode(self, example: dict[str, Any]) -> Encoded:
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
        out, at = {}, 0
        for name, (shape, dtype) in self._text.items() if data else ():
            count = int(np.prod(shape))
            out[name] = np.frombuffer(data, dtype, count, at).reshape(shape)
            at += count * dtype.itemsize
        if at != len(data):
            raise ValueError(f"{len(data)} bytes of text features where {at} were expected")
        return out


def read_identity(path: Path) -> dict[str, Any]:
    """What encoded.json in `path` says.

    Raises:
        InputError: there is none, or it is not one.
    """
    try:
        identity = json.loads((path / IDENTITY).read_text())
        if identity["format"] != FORMAT:
            raise InputError(
                f"{path / IDENTITY} is of format {identity['format']}, not {FORMAT}; encode again"
            )
        shapes = [
            shape
            for shape, _ in (*latent_arrays(identity).values(), *text_arrays(identity).values())
        ]
        if (
            not shapes
            or not all(isinstance(n, int) and n > 0 for shape in shapes for n in shape)
            or not sum(identity["records"]["lengths"])
        ):
            raise ValueError("no arrays")
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
                " again"
            )
        ) from e
    return identity


def open_cache(path: str | Path, records: RecordSource) -> EncodedSource:
    """Opens the companion of `records` at `path`.

    Raises:
        InputError: nothing there, damaged, or made of other records; with text features also where
            captions have changed since.
    """
    path = Path(path)
    identity = read_identity(path)
    source = EncodedSource(path, find_shards(path, FEATURES, MADE_BY), identity)
    ours = described(records)
    if identity["records"] != ours or source.lengths != records.lengths:
        count = sum(identity["records"]["lengths"])
        other = (
            f"{count:,} where there are {len(records):,}"
            if count != len(records)
            else "their keys, images or shards differ"
        )
        raise InputError(
            f"{path} was encoded from other records than {records.name} holds ({other}); `{MADE_BY}"
            f" --input {records.name}`"
        )
    if identity["text"] and identity["text"]["captions"] != captions_of(records):
        raise InputError(
            f"{path} has text features of other captions than {records.name} has now; `{MADE_BY}"
            f" --input {records.name}`"
        )
    return source
