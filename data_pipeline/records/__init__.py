"""Datasets of records: schema, files, feature caches."""

from pathlib import Path

from data_pipeline.io.errors import InputError

# how a feature cache stores latents and text features
LATENTS = ("float32", "float16", "bfloat16")
TEXTS = ("float32", "bfloat16", "int8")


def check_records(path: Path, made_by: str = "cv3jax data pack") -> None:
    """Raise InputError where there is no directory at `path`. It takes no library to see that.

    `made_by` is the command that makes such a dataset.
    """
    if not path.is_dir():
        raise InputError(
            f"no records at {path}: no such directory; `{made_by} --out {path}` makes one"
        )
