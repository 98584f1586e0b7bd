"""Training batches from records, with grain: shuffled by epoch, disjoint hosts, exact resuming.

A batch is a dict of numpy arrays:

    image   uint8 [B, H, W, 3]       H = W = S, or a bucket's
    tokens  int32 [B, L]             only with `tokenize`
    sizes   int32 [B, 6]             original height, width; crop top, left; target height, width
                                     (SDXL §2.2, CogView3 §3.2)

The image is resized until it just covers H × zoom, W × zoom, and an H × W window is cropped from
it. The crop's corner is in pixels of the resized image, and the original size is that of the
upright file. At sampling time (S, S, 0, 0, S, S) asks for an uncropped picture. Captions are not
dropped here but on the devices (`conditioning.drop_text`, config.objective.text_drop): a dropped
caption is replaced by zero features, which the text encoder produces for no caption.

Another source of examples, such as cached features, replaces decoding and cropping as `prepare`:

    prepare(source, index, rng, size) → example

    source   one dataset, as given in `records` (a part of a mixture has its own);
             `source[index]` reads the record, image bytes included
    index    int, 0..len(source) - 1
    rng      np.random.Generator that depends on the seed and the place in the order alone; the only
             randomness to draw from
    size     (H, W) of this batch
    example  a dict of numpy arrays, of the same names, shapes and dtypes for every record of a
             size; batches stack them. A str under "caption" becomes `tokens`. The loader uses
             `damaged` itself.

It raises InputError where this record cannot be read, and is then called for another one. It is
called from many threads, and is pickled for worker processes: use a module's function, a
functools.partial of one, or a callable frozen dataclass.
"""

import dataclasses
import functools
import itertools
import math
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.loading import workers
from data_pipeline.loading.ahead import check_order
from data_pipeline.loading.bucket_sizes import Size
from data_pipeline.loading.buckets import cells
from data_pipeline.loading.crops import crop
from data_pipeline.loading.damaged import FIELD, Cell, Tally, read
from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.order import Rows, Windows, epochs, mix, mixed
from data_pipeline.loading.settings import LoaderSettings
from data_pipeline.loading.usable import usable
from data_pipeline.records.records import Record, open_records
from data_pipeline.records.repeats import repeated

Tokenize = Callable[[list[str]], np.ndarray]  # N captions → int32 [N, L]
Prepare = Callable[[Sequence[Record], int, np.random.Generator, Size], dict[str, np.ndarray | str]]


class Loader:
    """An iterator over the batches of one host.

    `get_state()` returns the position, which is a number of batches, and the damaged records so far
    (JSON). `set_state()` resumes with exactly the batches that would follow, on any number of
    hosts, threads and worker processes. `sizes` are the (H, W) of batches.
    """

    def __init__(
        self,
        data: grain.MapDataset,
        sizes: tuple[Size, ...],
        start: Callable[[grain.MapDataset, int], Any],
        most_damaged: int,
    ):
        """Make the iterator over `data`; `make_loader` calls this."""
        self.sizes = sizes
        self._data, self._start = data, start
        self._position, self._tally = 0, Tally(most_damaged)
        self._batches, self._ended = None, lambda: None

    def __iter__(self) -> "Loader":
        """Return the loader."""
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        """Return the next batch. Raises InputError where too many records are damaged."""
        self.start_prefetch()
        batch = dict(next(self._batches))
        self._position += 1
        self._tally.add(batch.pop(FIELD))
        return batch

    def start_prefetch(self) -> None:
        """Start to prepare batches; otherwise the first `next` does."""
        if self._batches is None:
            self._batches = self._start(self._data, self._position)
            # also at the interpreter's exit, while the code that ends worker processes still exists
            self._ended = weakref.finalize(self, self._batches.close)
            self._batches.start_prefetch()

    def close(self) -> None:
        """End threads and worker processes.

        A later `next` starts new ones and continues from the same position.
        """
        self._ended()
        self._batches = None

    def get_state(self) -> dict:
        """Return the position and the damaged records so far, as JSON."""
        return {
            "next_index": self._position,
            **({"damaged": dict(self._tally.lost)} if self._tally.lost else {}),
        }

    def set_state(self, state: dict) -> None:
        """Continue from a state of `get_state`. Raises IndexError on an unknown position."""
        if not 0 <= state["next_index"] <= len(self._data):
            raise IndexError(
                f"data position {state['next_index']} is out of range: there are {len(self._data)}"
                " batches"
            )
        self.close()
        self._position = state["next_index"]
        self._tally = Tally(self._tally.most)
        self._tally.join(state.get("damaged", {}))

    @property
    def damaged(self) -> dict[str, str]:
        """The damaged records so far: {"PART:INDEX": why}."""
        return self._tally.lost


def make_loader(
    records: str | Path | Sequence[Record] | Mixture,
    settings: LoaderSettings,
    *,
    tokenize: Tokenize | None = None,
    rows: Sequence[int] | None = None,
    prepare: Prepare | None = None,
) -> Loader:
    """Return the iterator over the batches of one host.

    Args:
        records: a dataset's directory, a sequence of records (such as `open_records` returns), or a
            mixture of datasets. In a mixture, every stretch of the order contains each dataset in
            its share, and each runs through its own epochs without missing or repeating a record.
            A dataset with a `repeats.npy` has each record that often in an epoch.
        settings: the content and the order of the batches.
        tokenize: captions → tokens; None leaves `tokens` out, for training on images alone.
        rows: the rows of each batch that this host reads, ascending; None: all. However the rows
            are divided among hosts, together they read the same batches. The state is the same on
            each, so it can be restored on any number of hosts.
        prepare: makes an example of a record, in place of `crops.crop` with `settings.crop`.

    Raises:
        InputError: a batch has no such rows, the dataset cannot be read, or it has fewer records
            than a batch. While iterating: too many records or images are damaged; the message has
            the first one's key and dataset.
    """
    rows = range(settings.batch_size) if rows is None else tuple(rows)
    _check_rows(rows, settings.batch_size)
    source = open_records(records) if isinstance(records, str | Path) else records
    if settings.num_epochs is None and isinstance(source, Mixture):
        parts, weights = source.parts, source.weights
    else:
        parts, weights = (source,), (1.0,)
    for part in parts:
        if not len(part):
            raise InputError(
                f"{getattr(part, 'name', 'the given records')} holds no records (count = 0); give"
                " a dataset that has some"
            )
    prepare = prepare or functools.partial(
        crop, settings=settings.crop, with_caption=tokenize is not None
    )
    streams, shares = _streams(parts, weights, settings, rows)
    batches = [_batches(stream, size, settings, rows, prepare) for size, stream in streams.items()]
    data = mix(batches, shares) if settings.buckets else batches[0]
    if tokenize is not None:
        data = data.map(_Tokens(tokenize))
    start = functools.partial(
        workers.start,
        threads=settings.num_threads,
        prefetch=settings.prefetch,
        workers=settings.num_workers,
        niceness=settings.niceness,
    )
    return Loader(data, tuple(streams), start, settings.max_damaged)


def _check_rows(rows: Sequence[int], batch_size: int) -> None:
    ascending = all(a < b for a, b in itertools.pairwise(rows))
    if not (len(rows) > 0 and rows[0] >= 0 and rows[-1] < batch_size and ascending):
        raise InputError(f"rows = {rows}: give some of 0..{batch_size - 1}, ascending")


def _streams(
    parts: Sequence[Sequence],
    weights: Sequence[float],
    settings: LoaderSettings,
    rows: Sequence[int],
) -> tuple[dict[Size, grain.MapDataset], list[float]]:
    """Return the picks of each batch size, in order, and the share of each size."""
    seed, square = settings.seed, (settings.image_size,) * 2
    check_order(parts, settings, len(rows) / settings.batch_size)
    if settings.buckets:
        least = settings.batch_size
        inside = cells(parts, weights, settings.buckets, least, settings.min_side)
        shares = [sum(weight for _, weight in each) for each in inside.values()]
        streams = {
            size: mixed(each, seed, label=size, **_order(settings, rows, share))
            for (size, each), share in zip(inside.items(), shares, strict=True)
        }
        return streams, shares
    given = _order(settings, rows, 1.0)
    whole = [
        Cell(number, part, repeated(part, usable(part, settings.min_side)))
        for number, part in enumerate(parts)
    ]
    if len(parts) > 1:
        return {square: mixed(list(zip(whole, weights, strict=True)), seed, **given)}, [1.0]
    data = epochs(whole[0], seed, count=settings.num_epochs, **given)
    if settings.num_epochs is not None:
        data = _whole_batches(data, whole[0], settings, rows)
    return {square: data}, [1.0]


def _order(settings: LoaderSettings, rows: Sequence[int], share: float) -> dict[str, Any]:
    """Return how the records of a stream are shuffled, which has that share of the batches."""
    batches = settings.prefetch + settings.num_threads * max(1, settings.num_workers)
    size, reach = settings.batch_size, (math.ceil(share * batches) + 1) * settings.batch_size
    windows = Windows(settings.window, settings.seed, size, tuple(rows), reach)
    return {"shuffle": settings.shuffle, "windows": windows if settings.window else None}


def _batches(
    stream: grain.MapDataset,
    size: Size,
    settings: LoaderSettings,
    rows: Sequence[int],
    prepare: Prepare,
) -> grain.MapDataset:
    # make examples before choosing rows: random numbers depend on the position, so choosing first
    # would give all hosts the same ones
    data = stream.random_map(
        functools.partial(read, prepare=prepare, size=size, most=settings.max_damaged)
    )
    if len(rows) < settings.batch_size:
        data = grain.MapDataset.source(Rows(data, settings.batch_size, rows))
    return data.batch(len(rows), drop_remainder=settings.drop_remainder)


def _whole_batches(
    data: grain.MapDataset, cell: Cell, settings: LoaderSettings, rows: Sequence[int]
) -> grain.MapDataset:
    """Return the picks of all epochs, without an incomplete last batch where that is dropped.

    Raises InputError where they are fewer than a batch.
    """
    batch_size, drop_remainder = settings.batch_size, settings.drop_remainder
    whole = len(cell.indices) * settings.num_epochs
    if whole < batch_size and (drop_remainder or whole <= rows[0]):
        raise InputError(
            f"{getattr(cell.source, 'name', 'the given records')}: num_epochs ="
            f" {settings.num_epochs} over {len(cell.indices)} records gives less than one batch of"
            f" {batch_size}; lower the batch size, or allow an incomplete batch"
        )
    return data[: whole // batch_size * batch_size] if drop_remainder else data


@dataclasses.dataclass(frozen=True)
class _Tokens(grain.transforms.Map):
    """Tokenizes a whole batch at once, which is much faster than caption by caption."""

    tokenize: Tokenize

    def map(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the batch with tokens in place of captions."""
        captions = [str(caption) for caption in batch["caption"]]
        rest = {name: value for name, value in batch.items() if name != "caption"}
        return {**rest, "tokens": np.asarray(self.tokenize(captions), np.int32)}
