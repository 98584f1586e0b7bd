"""Where checkpoints may be, and what reading one of another model raises; needs no orbax."""

import re
from pathlib import Path

from data_pipeline.io.errors import InputError

# what is raised on a tree with other names, shapes or types
MISMATCH = (ValueError, TypeError, KeyError)
_PATTERN = re.compile(r"[*?\[\\]")  # orbax globs whole paths, through etils


def checkpoint_path(directory: str | Path, flag: str = "checkpoint") -> Path:
    """Return the absolute path of a directory that holds checkpoints or is one.

    Raises:
        InputError: orbax would treat the path as a pattern, write into it and never find it again.
    """
    path = Path(directory).absolute()
    if found := _PATTERN.search(str(path)):
        raise InputError(
            f"{flag} {path}: the library that reads checkpoints treats {found[0]} as a pattern;"
            " give a directory whose path has none of * ? [ \\"
        )
    return path
