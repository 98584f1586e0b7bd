"""Datasets of records: their schema, files and feature caches."""

import dataclasses
from pathlib import Path

from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.store import address_of

# types in which a feature cache can store latents and text features
LATENTS = ("float32", "float16", "bfloat16")
TEXTS = ("float32", "bfloat16", "int8")


@dataclasses.dataclass(frozen=True)
class CacheSettings:
    """Where the shards of buckets are kept on this host, and at most how many bytes of them.

    All processes of the host may share the directory; the bytes are those of all of them together.
    """

    directory: Path | None = None
    size: int = 100 * 10**9


def check_records(path: Path, made_by: str = "cv3jax data pack") -> None:
    """Raise InputError where there is no directory at `path`; this needs no other library.

    made_by: the command that makes such a dataset.
    """
    if address_of(path):
        raise InputError(
            f"{path} is in a bucket; only the datasets of a training and of `cv3jax data recaption`"
            " may be there; give a directory of this machine"
        )
    if not path.is_dir():
        raise InputError(
            f"no records at {path}: there is no such directory; `{made_by} --out {path}` makes one"
        )
