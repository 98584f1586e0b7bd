"""What saves of runs' checkpoints and of cascades' parts share: manifests, patience, errors."""

import os
import re
from pathlib import Path

import jax
import orbax.checkpoint as ocp

from cv3jax.checkpoints import manifest
from data_pipeline.io.errors import first_line

UNFINISHED = ocp.path.atomicity_types.TMP_DIR_SUFFIX
# seconds; orbax measures its timeouts with the wall clock, which may be set forward in the middle
# of a save
PATIENCE = 10**7
# what orbax raises on a tree of other names, shapes or types
MISMATCH = (ValueError, TypeError, KeyError)


def os_error(e: Exception) -> OSError | None:
    """The system's error that orbax or tensorstore reports, or None where `e` is of another
    kind.
    """
    if isinstance(e, OSError):
        return OSError(e.errno, e.strerror or first_line(e), e.filename)
    code = re.search(r"os_error_code='(\d+)'", str(e))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else None


def sign(directory: Path, pattern: str) -> None:
    """Called by orbax in each process when all files of a checkpoint are there and it is about to
    get its name.
    """
    if jax.process_index() != 0:
        return
    for path in directory.glob(f"{pattern}{UNFINISHED}"):
        manifest.write(path)
