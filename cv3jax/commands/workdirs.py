"""The workdir of a run of one process or many, where it may be in an object store."""

import contextlib
import uuid
from collections.abc import Iterator
from pathlib import Path

from cv3jax.distributed import processes
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.mirror import mirrored
from data_pipeline.io.objects.places import PLACE, base, place_of
from data_pipeline.io.objects.store import address_of

TOKEN = "hosts"  # in the directory of an address: what process 0 wrote last


@contextlib.contextmanager
def opened(workdir: Path) -> Iterator[Path]:
    """Yield the directory to work in, as `mirrored` does; all processes of the run call it.

    Process 0 has the lease and publishes. Checkpoints are written by all processes together, so
    all must see its directory.

    Raises:
        InputError: they do not, or as `mirrored` does.
        OSError: as `mirrored` does.
    """
    with mirrored(workdir, main=processes.main()) as place:
        if (address := address_of(workdir)) is not None:
            _check_seen(address)
        yield place


def _check_seen(address: str) -> None:
    """Raise InputError unless this process sees what process 0 writes for an address."""
    note = place_of(address) / TOKEN

    def write() -> str:
        token = uuid.uuid4().hex
        note.write_text(token)
        return token

    token = processes.first("mirror", write)
    if not note.is_file() or note.read_text() != token:
        raise InputError(
            f"--workdir {address}: the processes of this run do not see one directory; set"
            f" {PLACE} (here {base()}) to one that all hosts share, or give a --workdir there"
        )
