"""What saves of runs and of cascades share: allowed paths, manifests, time limits and errors."""

import errno
import math
import os
import re
import shutil
import time
from pathlib import Path

import orbax.checkpoint as ocp
import tensorstore

from cv3jax.checkpoints.paths import MISMATCH as MISMATCH
from cv3jax.checkpoints.paths import checkpoint_path as checkpoint_path
from data_pipeline.io.bounded_json import load_json
from data_pipeline.io.errors import first_line, machine_error

UNFINISHED = ocp.path.atomicity_types.TMP_DIR_SUFFIX
# seconds; orbax measures its timeouts with the wall clock, which may be set forward during a save
PATIENCE = 10**7


def os_error(e: Exception) -> OSError | None:
    """Return the system's error that orbax or tensorstore reports, or None for another error."""
    if isinstance(e, OSError):
        return OSError(e.errno, e.strerror or first_line(e), e.filename)
    code = re.search(r"os_error_code='(\d+)'", str(e))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else None


def remove_unfinished(
    directory: str | Path, pattern: str = "[0-9]*", quiet: float = 0.0, most: float = 30.0
) -> None:
    """Remove what killed or failed saves left, which would only take up space.

    Nothing else may be saving what `pattern` names there, but threads of a save that has just
    failed may still write their parts. With `quiet`, it looks again until nothing has come for so
    many seconds, and for `most` seconds at the longest.
    """
    end = time.monotonic() + most
    still = time.monotonic() + quiet
    while True:
        for path in Path(directory).glob(f"{pattern}{UNFINISHED}*"):
            shutil.rmtree(path, ignore_errors=True)
            still = time.monotonic() + quiet
        if time.monotonic() >= min(still, end):
            return
        time.sleep(min(quiet, most) / 10)


def check_parts(directory: Path) -> None:
    """Raise OSError unless the orbax tree at `directory` is complete.

    The store that readers use must have every array that the tree's description names, and
    something in each.
    """
    described = load_json(directory / "_METADATA")["tree_metadata"].values()
    sizes = {
        ".".join(str(each["key"]) for each in leaf["key_metadata"]): math.prod(
            leaf["value_metadata"].get("write_shape") or [1]
        )
        for leaf in described
        if not leaf["value_metadata"]["skip_deserialize"]
    }
    spec = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{directory}/"}}
    try:
        names = {key.decode() for key in tensorstore.KvStore.open(spec).result().list().result()}
    except ValueError as e:
        failed = machine_error(e, directory)
        why = f"it cannot be read again: {first_line(e)}"
        raise failed or OSError(errno.EIO, why, str(directory)) from e
    filled = {name.rpartition("/")[0] for name in names if not name.endswith((".zarray", ".json"))}
    lacking = [
        name
        for name, size in sorted(sizes.items())
        if f"{name}/.zarray" not in names or (size and name not in filled)
    ]
    if lacking:
        raise OSError(
            errno.EIO,
            f"{len(lacking)} of its {len(sizes)} arrays were not written, such as {lacking[0]}",
            str(directory),
        )
