"""Datasets of records: their schema, files and feature caches."""

from pathlib import Path

from data_pipeline.io.errors import InputError

# types in which a feature cache can store latents and text features
LATENTS = ("float32", "float16", "bfloat16")
TEXTS = ("float32", "bfloat16", "int8")


def check_records(path: Path, made_by: str = "cv3jax data pack") -> None:
    """Raise InputError where there is no directory at `path`; this needs no other library.

    made_by: the command that makes such a dataset.
    """
    if not path.is_dir():
        raise InputError(
            f"no records at {path}: there is no such directory; `{made_by} --out {path}` makes one"
        )
