"""The held-out loss: the same records, noise levels and noise in every evaluation."""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np

from cv3jax.distributed import processes
from cv3jax.distributed.batches import own_rows, placer
from cv3jax.distributed.mesh import batch_ways
from cv3jax.training.data import crop_settings
from cv3jax.training.heldout_losses import NUMBER, SEED
from cv3jax.training.settings import StageSettings
from cv3jax.training.train_settings import HELD_OUT
from data_pipeline.io.errors import InputError
from data_pipeline.loading.loader import make_loader
from data_pipeline.loading.settings import LoaderSettings
from data_pipeline.loading.usable import usable
from data_pipeline.records.digest import alike, dataset_content
from data_pipeline.records.records import Record, RecordSource
from data_pipeline.records.remote import open_any

FIELD = "config.train.eval_data"


@dataclasses.dataclass(frozen=True)
class Chosen(Sequence):
    """Some records of a dataset, by their indices."""

    source: RecordSource
    indices: tuple[int, ...]

    def __len__(self) -> int:
        """Return their number."""
        return len(self.indices)

    def __getitem__(self, i: int) -> Record:
        """Return one of them."""
        return self.source[self.indices[i]]

    @property
    def name(self) -> str:
        """Return the dataset's name, for messages."""
        return self.source.name


def open_held_out(settings: StageSettings) -> Chosen | None:
    """Return train.eval_records of the records of train.eval_data, evenly spaced, or None.

    Pictures below data.min_side are left out, as in training. Raises InputError where the dataset
    cannot be read.
    """
    train = settings.train
    if not (train.eval_every and train.eval_data):
        return None
    try:
        source = open_any(train.eval_data, settings.data.shard_cache)
        large = usable(source, settings.data.min_side or 0)
    except InputError as e:
        raise InputError(f"{FIELD}: {e}") from e
    count = min(train.eval_records, len(large))
    return Chosen(source, tuple(int(large[i * len(large) // count]) for i in range(count)))


def check_apart(settings: StageSettings, inputs: dict[str, Any]) -> None:
    """Raise InputError where train.eval_data is a dataset that is trained on.

    inputs: `stage_inputs`, with the contents of data.path.
    """
    if not (path := settings.train.eval_data):
        return
    try:
        held_out = dataset_content(path, settings.data.shard_cache)
    except InputError as e:
        raise InputError(f"{FIELD}: {e}") from e
    if any(alike(held_out, content) for content, _ in inputs["data.path"]):
        raise InputError(
            f"{FIELD} = {path} has the records of config.data.path, which are trained on; give"
            " other ones"
        )


class Batches:
    """The batches of the held-out records, kept on the host, of which a process has its own rows.

    A device gets at most batch.per_device rows of a batch. The last batch is filled up with the
    last record.
    """

    def __init__(
        self, settings: StageSettings, records: Chosen, tokenize: Callable | None, mesh: Any
    ):
        """Read the records; crops and captions are those of training, by a seed of their own."""
        self.count, ways = len(records), batch_ways(mesh)
        share = min(settings.batch.per_device, settings.batch.size // ways, -(-self.count // ways))
        size = ways * share
        batches, data = -(-self.count // size), settings.data
        filled = (*records.indices, *[records.indices[-1]] * (batches * size - self.count))
        rows = own_rows(mesh, size)
        loader = make_loader(
            Chosen(records.source, filled),
            LoaderSettings(
                batch_size=size,
                image_size=data.image_size,
                seed=SEED,
                crop=crop_settings(settings),
                num_threads=data.threads,
                max_damaged=data.max_damaged,
                shuffle=False,
                num_epochs=1,
            ),
            tokenize=tokenize,
            rows=rows,
        )
        try:
            read = [next(loader) for _ in range(batches)]
        finally:
            loader.close()
        self._read = [
            {**batch, NUMBER: np.asarray(rows, np.int32) + np.int32(i * size)}
            for i, batch in enumerate(read)
        ]
        self._place = placer(mesh, size)

    def __iter__(self) -> Iterator[dict]:
        """Yield the batches, placed on the mesh one at a time."""
        return map(self._place, self._read)

    def values(self, program: Callable[[dict], Any]) -> Any:
        """Return a tree of float64 [records, …] from what `program` returns of each batch [B, …].

        All processes call it, and get the same.
        """
        made = [jax.tree.map(processes.whole, program(batch)) for batch in self]
        return jax.tree.map(
            lambda *parts: np.concatenate(parts).astype(np.float64)[: self.count], *made
        )


def level_names(at: Sequence[int]) -> list[str]:
    """Return the names of the mean loss and of that of each noise level, by its t."""
    return [f"{HELD_OUT}/loss", *(f"{HELD_OUT}/loss_t{t:03d}" for t in sorted(set(at)))]


def level_figures(losses: np.ndarray, at: Sequence[int]) -> dict[str, float]:
    """Return the figures of losses [records, levels]. at: t of each level; it may recur."""
    means = [float(losses[:, list(at).index(t)].mean()) for t in sorted(set(at))]
    return dict(zip(level_names(at), [float(np.mean(means)), *means], strict=True))
