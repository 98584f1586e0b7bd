"""The workdir of a run of one process or many, where it may be in an object store."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cv3jax.distributed import hosts, processes
from cv3jax.distributed.preemption import has_checkpoint
from data_pipeline.io.objects.mirror import holding
from data_pipeline.io.objects.places import place_of
from data_pipeline.io.objects.store import address_of


@contextlib.contextmanager
def opened(workdir: Path) -> Iterator[Path]:
    """Yield the directory to work in; all processes of the run call it.

    Of an address, process 0 has the lease and publishes. The others work in its directory where
    they see it, and otherwise in one of their own machine (`hosts`).

    Raises:
        InputError: as `mirrored` and the store do.
        OSError: the store fails; what was published before remains.
    """
    address = address_of(workdir)
    if address is None:
        yield workdir
        return
    place = place_of(address) / "work"
    held = holding(address) if processes.main() else contextlib.nullcontext()
    with held as mirror, hosts.sharing(address, mirror, lambda: has_checkpoint(place)):
        yield place
