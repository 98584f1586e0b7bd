"""Restore the newest checkpoint of a run: of its workdir, or of the machines' own disks."""

from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from cv3jax.checkpoints import runs
from cv3jax.distributed import hosts, processes
from cv3jax.distributed.backend import waiting
from cv3jax.training.local_saves import Found, LocalSaves
from cv3jax.training.train_step import TrainState, as_stored, from_stored
from cv3jax.training.work import Work
from data_pipeline.io.progress import say


def restored(
    manager: ocp.CheckpointManager,
    local: LocalSaves,
    work: Work,
    record: dict[str, Any],
    resume_from: int | None,
    state: TrainState | None,
) -> Found | None:
    """Return the newest state with what its checkpoint keeps, or None where there is none.

    The loader is then at its position. A local checkpoint counts where it is newer than those of
    the workdir (`LocalSaves.restore`). state: the one that the run would begin with; where another
    is restored, its memory is given back. All processes call this.
    """
    like = as_stored(work.like)
    # a network file system may show them late to other processes
    latest = processes.first("latest", manager.latest_step)
    found = local.restore(
        like, latest or 0, record, resume_from, lambda: jax.tree.map(lambda x: x.delete(), state)
    )
    if found is not None:
        if processes.main():
            where = "the machines' own disks" if processes.peers() else "this machine's own disk"
            say(f"cv3jax: resuming from step {found.step}, which is on {where}")
        work.data.set_state(found.data)
        work.data.start_prefetch()
    elif latest is not None:
        with waiting(f"loading the checkpoint of step {latest}"):
            hosts.bring(Path(manager.directory) / str(latest))
            run = runs.run_of(manager.directory, latest)
            found = Found(latest, runs.restore(manager, latest, like, work.data), {}, run)
    if found is None:
        return None
    return found._replace(state=from_stored(found.state, work.like, found.run.get("norms")))
