"""Records → training batches, with grain: a global shuffle per epoch, disjoint hosts, a state that
resumes exactly.

A batch is a dict of numpy arrays:

    image   uint8 [B, H, W, 3]       H = W = S, or a bucket's
    tokens  int32 [B, L]             only with `tokenize`
    sizes   int32 [B, 6]             original height, width; crop top, left; target height, width
                                     (SDXL §2.2, CogView3 §3.2)

The image is resized until it just covers H × zoom, W × zoom, and an H × W window cropped from that.
The crop's corner is in pixels of the resized image, the original size is the file's, upright. At
sampling time (S, S, 0, 0, S, S) asks for an uncropped picture. Captions are dropped on the devices
and not here (`conditioning.drop_text`, config.objective.text_drop): what replaces one is zero
features, which the text encoder makes of no caption.

Another source of examples, such as cached features, takes the place of decoding and cropping as
`prepare`:

    prepare(source, index, rng, size) → example

    source   one dataset, as given in `records` (a part of a mixture has its own);
             `source[index]` reads the record, image bytes included
    index    int, 0..len(source) - 1
    rng      np.random.Generator that depends on the seed and the place in the order alone; the only
             randomness to draw from
    size     (H, W) of this batch
    example  a dict of numpy arrays, of the same names, shapes and dtypes for every record of a
             size; batches stack them. A str under "caption" becomes `tokens`. `damaged` is the
             loader's own.

It raises InputError where this record cannot be read, and is then asked for another one. It is
called from many threads, and with worker processes pickled: a module's function, a
functools.partial of one, or a frozen dataclass that can be called.
"""

import dataclasses
import functools
import itertools
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np

from data_pipeline.io.errors import InputError
from data_pipeline.loading import workers
from data_pipeline.loading.bucket_sizes import Size
from data_pipeline.loading.buckets import cells
from data_pipeline.loading.crops import crop
from data_pipeline.loading.damaged import FIELD, Cell, Tally, read
from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.order import Rows, epochs, mix, mixed
from data_pipeline.loading.settings import LoaderSettings
from data_pipeline.loading.usable import usable
from data_pipeline.records.records import Record, open_records

Tokenize = Callable[[list[str]], np.ndarray]  # N captions → int32 [N, L]
Prepare = Callable[[Sequence[Record], int, np.random.Generator, Size], dict[str, np.ndarray | str]]


class Loader:
    """Iterates over the batches of one host.

    `get_state()` is the position, a number of batches, and the damaged records so far (JSON);
    `set_state()` resumes with exactly the batches that would follow, on any number of hosts,
    threads and worker processes. `sizes` are the (H, W) that batches have.
    """

    def __init__(
        self,
        data: grain.MapDataset,
        sizes: tuple[Size, ...],
        start: Callable[[grain.MapDataset, int], Any],
        most_damaged: int,
    ):
        self.sizes = sizes
        self._data, self._start = data, start
        self._position, self._tally = 0, Tally(most_damaged)
        self._batches, self._ended = None, lambda: None

    def __iter__(self) -> "Loader":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        self.start_prefetch()
        batch = dict(next(self._batches))
        self._position += 1
        self._tally.add(batch.pop(FIELD))
        return batch

    def start_prefetch(self) -> None:
        """Begin to prepare batches. Otherwise the first `next` does."""
        if self._batches is None:
            self._batches = self._start(self._data, self._position)
            # at the interpreter's exit too, as long as what ends worker processes is still there
            self._ended = weakref.finalize(self, self._batches.close)
            self._batches.start_prefetch()

    def close(self) -> None:
        """End threads and worker processes.

        A later `next` makes new ones, and goes on where this was.
        """
        self._ended()
        self._batches = None

    def get_state(self) -> dict:
        return {
            "next_index": self._position,
            **({"damaged": dict(self._tally.lost)} if self._tally.lost else {}),
        }

    def set_state(self, state: dict) -> None:
        """Raises IndexError on a position that there is not."""
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
        """ "PART:INDEX" → why, of each damaged record that came so far."""
        return self._tally.lost


def make_loader(
    records: str | Path | Sequence[Record] | Mixture,
    settings: LoaderSettings,
    *,
    tokenize: Tokenize | None = None,
    rows: Sequence[int] | None = None,
    prepare: Prepare | None = None,
) -> Loader:
    """Iterates over batches of one host; `get_state()` / `set_state()` resume with exactly the
    batches that would follow.

    Args:
        records: a dataset's directory, any sequence of records (such as `open_records` gives), or a
            mixture of datasets: of each its share of every stretch of the order, each in epochs of
            its own, none of whose records is missed or comes twice.
        settings: what batches, in which order.
        tokenize: captions → tokens; None leaves `tokens` out, for training on images alone.
        rows: those of each batch that this host reads, ascending; None: all. However a batch's rows
            are dealt to hosts, together they read the same batches, and the state is the same on
            each: it restores onto any number of hosts.
        prepare: what makes an example of a record, instead of `crops.crop` with `settings.crop`.

    Raises:
        InputError: rows that no batch has, an unreadable dataset, or too few records for one
            batch; while iterating, a damaged record or image too many (its key and dataset are
            named).
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
                f"{getattr(part, 'name', 'the given records')} holds no records (count = 0)"
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
    )
    return Loader(data, tuple(streams), start, settings.max_damaged)


def _check_rows(rows: Sequence[int], batch_size: int) -> None:
    ascending = all(a < b for a, b in itertools.pairwise(rows))
    if not (len(rows) > 0 and rows[0] >= 0 and rows[-1] < batch_size and ascending):
        raise InputError(f"rows = {rows}: some of 0..{batch_size - 1}, ascending")


def _streams(
    parts: Sequence[Sequence],
    weights: Sequence[float],
    settings: LoaderSettings,
    rows: Sequence[int],
) -> tuple[dict[Size, grain.MapDataset], list[float]]:
    """The picks of each size that batches have, in order, and its share of the batches."""
    seed, shuffle, square = settings.seed, settings.shuffle, (settings.image_size,) * 2
    whole = [
        (Cell(number, part, usable(part, settings.min_side)), weight)
        for number, (part, weight) in enumerate(zip(parts, weights, strict=True))
    ]
    if settings.buckets:
        inside = cells(whole, settings.buckets, settings.batch_size)
        streams = {
            size: mixed(each, seed, shuffle=shuffle, label=size) for size, each in inside.items()
        }
        return streams, [sum(weight for _, weight in each) for each in inside.values()]
    if len(parts) > 1:
        return {square: mixed(whole, seed, shuffle=shuffle)}, [1.0]
    ((cell, _),) = whole
    data = epochs(cell, seed, shuffle=shuffle, count=settings.num_epochs)
    if settings.num_epochs is not None:
        data = _whole_batches(data, cell, settings, rows)
    return {square: data}, [1.0]


def _batches(
    stream: grain.MapDataset,
    size: Size,
    settings: LoaderSettings,
    rows: Sequence[int],
    prepare: Prepare,
) -> grain.MapDataset:
    # examples before rows are chosen: the randomness goes by position, and each host's would be the
    # same
    data = stream.random_map(
        functools.partial(read, prepare=prepare, size=size, most=settings.max_damaged)
    )
    if len(rows) < settings.batch_size:
        data = grain.MapDataset.source(Rows(data, settings.batch_size, rows))
    return data.batch(len(rows), drop_remainder=settings.drop_remainder)


def _whole_batches(
    data: grain.MapDataset, cell: Cell, settings: LoaderSettings, rows: Sequence[int]
) -> grain.MapDataset:
    """The picks of so many epochs, without the last incomplete batch where that is dropped.

    InputError where they are too few.
    """
    batch_size, drop_remainder = settings.batch_size, settings.drop_remainder
    whole = len(cell.indices) * settings.num_epochs
    if whole < batch_size and (drop_remainder or whole <= rows[0]):
        raise InputError(
            f"{getattr(cell.source, 'name', 'the given records')}: {settings.num_epochs} epoch(s)"
            f" of {len(cell.indices)} records are less than one batch of {batch_size}; lower the"
            " batch size or allow an incomplete batch"
        )
    return data[: whole // batch_size * batch_size] if drop_remainder else data


@dataclasses.dataclass(frozen=True)
class _Tokens(grain.transforms.Map):
    """Tokenizes a whole batch at once, which the Rust tokenizers do much faster than one by one."""

    tokenize: Tokenize

    def map(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        captions = [str(caption) for caption in batch["caption"]]
        rest = {name: value for name, value in batch.items() if name != "caption"}
        return {**rest, "tokens": np.asarray(self.tokenize(captions), np.int32)}
