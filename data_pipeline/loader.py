"""Records → training batches, with grain: a global shuffle per epoch, disjoint hosts, a state that resumes exactly.

A batch is a dict of numpy arrays:

    image   uint8 [B, S, S, 3]
    tokens  int32 [B, L]             only with `tokenize`
    sizes   int32 [B, 6]             original height, width; crop top, left; target height, width (SDXL §2.2, CogView3 §3.2)

The short side is resized to S × zoom and an S × S window cropped from that. The crop's corner is in pixels of the resized
image, the original size is the file's, upright. At sampling time (S, S, 0, 0, S, S) asks for an uncropped picture.
"""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grain
import numpy as np
from PIL import Image

from data_pipeline.errors import InputError
from data_pipeline.images import decode_rgb, open_image, upright_size
from data_pipeline.records import Record, open_records

Tokenize = Callable[[list[str]], np.ndarray]  # N captions → int32 [N, L]


def make_loader(
    records: str | Path | Sequence[Record],
    *,
    batch_size: int,
    image_size: int,
    tokenize: Tokenize | None,
    seed: int,
    rows: Sequence[int] | None = None,
    num_threads: int = 4,
    prefetch: int = 8,
    zoom: tuple[float, float] = (1.0, 1.0),
    zoom_levels: int = 0,
    crop_grid: int = 1,
    random_crop: bool = True,
    flip: bool = False,
    recaption_prob: float = 0.95,
    shuffle: bool = True,
    num_epochs: int | None = None,
    drop_remainder: bool = True,
) -> grain.DatasetIterator:
    """Iterates over batches of one host; `get_state()` / `set_state()` resume with exactly the batches that would follow.

    Args:
        records: a dataset's directory, or any sequence of records (such as `open_records` gives).
        batch_size: of all hosts together.
        image_size: S, pixels.
        tokenize: captions → tokens; None leaves `tokens` out, for training on images alone.
        seed: of order, crops, flips and the choice of caption.
        rows: those of each batch that this host reads, ascending; None: all. However a batch's rows are dealt to hosts, together
            they read the same batches, and the state is the same on each: it restores onto any number of hosts.
        num_threads, prefetch: threads that prepare batches, and batches prepared ahead; 0 threads: none, in this one.
        zoom: range of the resized short side over S, uniform, at least 1.
        zoom_levels: only so many values of that range, evenly spaced, ends included; 0: all of it.
        crop_grid: crops begin at multiples of this many pixels.
        random_crop: else the middle.
        flip: mirror half of the images. Wrong for captions that say left or right.
        recaption_prob: how often a record's recaption, where it has one, replaces its caption (0.95 in CogView3 §3.1).
        shuffle: else in the order of the records.
        num_epochs: None: for ever.
        drop_remainder: leaves out the last incomplete batch. Without it every record comes, and of that batch some hosts may
            have fewer rows, or none.

    Raises:
        InputError: an argument out of range, an unreadable dataset, or too few records for one batch; while iterating, a
            damaged record or image (its key and dataset are named).
    """
    rows = range(batch_size) if rows is None else tuple(rows)
    _check(batch_size, image_size, rows, num_threads, prefetch, zoom, zoom_levels, crop_grid, recaption_prob, num_epochs)
    source = open_records(records) if isinstance(records, str | Path) else records
    name = getattr(source, "name", "the given records")
    if not len(source):
        raise InputError(f"{name} holds no records (count = 0)")

    data = grain.MapDataset.source(source).seed(seed)
    if shuffle:
        data = data.shuffle()
    data = data.repeat(num_epochs)  # a new order each time: grain reseeds the shuffle by epoch
    if num_epochs is not None:
        whole = len(source) * num_epochs
        if whole < batch_size and (drop_remainder or whole <= rows[0]):
            raise InputError(
                f"{name}: {num_epochs} epoch(s) of {len(source)} records are less than one batch of {batch_size}; "
                "lower the batch size or allow an incomplete batch"
            )
        if drop_remainder:
            data = data[: whole // batch_size * batch_size]
    prepare = _Prepare(name, image_size, zoom, zoom_levels, crop_grid, random_crop, flip, recaption_prob, with_caption=tokenize is not None)
    data = data.random_map(prepare)  # before rows are chosen: the randomness goes by position, and each host's would be the same
    if len(rows) < batch_size:
        data = grain.MapDataset.source(_Rows(data, batch_size, rows))
    data = data.batch(len(rows), drop_remainder=drop_remainder)
    if tokenize is not None:
        data = data.map(_Tokens(tokenize))
    # In threads and not processes: Pillow releases the GIL, and the state of worker processes depends on their number.
    return iter(data.to_iter_dataset(grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch if num_threads else 0)))


def _check(batch_size, image_size, rows, num_threads, prefetch, zoom, zoom_levels, crop_grid, recaption_prob, num_epochs) -> None:
    inside = len(rows) > 0 and rows[0] >= 0 and rows[-1] < batch_size and all(a < b for a, b in itertools.pairwise(rows))
    rules = (
        (batch_size >= 1, f"batch_size = {batch_size}: at least 1"),
        (8 <= image_size <= 8192, f"image_size = {image_size}: 8..8192 pixels"),
        (batch_size < 1 or inside, f"rows = {rows}: some of 0..{batch_size - 1}, ascending"),
        (num_threads >= 0, f"num_threads = {num_threads}: at least 0"),
        (prefetch >= 1, f"prefetch = {prefetch}: at least 1"),
        (1 <= zoom[0] <= zoom[1] <= 8, f"zoom = {zoom}: low and high, with 1 <= low <= high <= 8"),
        (zoom_levels == 0 or zoom_levels >= 2, f"zoom_levels = {zoom_levels}: at least 2, or 0 for any zoom"),
        (1 <= crop_grid <= image_size, f"crop_grid = {crop_grid}: 1 to the image size"),
        (0 <= recaption_prob <= 1, f"recaption_prob = {recaption_prob}: a probability, in 0..1"),
        (num_epochs is None or num_epochs >= 1, f"num_epochs = {num_epochs}: at least 1, or None for ever"),
    )
    for fine, message in rules:
        if not fine:
            raise InputError(message)


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Some rows of every batch of a dataset, one after the other; only what is asked for is prepared."""

    whole: grain.MapDataset
    batch_size: int
    rows: tuple[int, ...]

    def __len__(self) -> int:
        batches, rest = divmod(len(self.whole), self.batch_size)
        return batches * len(self.rows) + sum(row < rest for row in self.rows)

    def __getitem__(self, index: int) -> Any:
        batch, row = divmod(index, len(self.rows))
        return self.whole[batch * self.batch_size + self.rows[row]]


@dataclasses.dataclass(frozen=True)
class _Prepare(grain.transforms.RandomMap):
    """One record → image, sizes and (if asked for) caption. The generator grain passes depends on seed and position alone."""

    name: str
    image_size: int
    zoom: tuple[float, float]
    zoom_levels: int
    crop_grid: int
    random_crop: bool
    flip: bool
    recaption_prob: float
    with_caption: bool

    def random_map(self, record: Record, rng: np.random.Generator) -> dict[str, np.ndarray | str]:
        # Drawn in this order whatever the options, so that switching one of them off leaves the other choices as they were.
        zoom, across, down, mirror, recaption = rng.random(5)
        if self.zoom_levels:
            zoom = int(zoom * self.zoom_levels) / (self.zoom_levels - 1)
        try:
            image, sizes = fit(
                record["image"],
                self.image_size,
                zoom=self.zoom[0] + zoom * (self.zoom[1] - self.zoom[0]),
                position=(down, across) if self.random_crop else (0.5, 0.5),
                grid=self.crop_grid,
                mirror=self.flip and mirror < 0.5,
            )
        except InputError as e:
            raise InputError(f"record {record['key']!r} of {self.name}: {e}; pack the data again without it") from e
        out = {"image": image, "sizes": sizes}
        if self.with_caption:
            use = record["recaption"] and recaption < self.recaption_prob
            out["caption"] = record["recaption"] if use else record["caption"]
        return out


@dataclasses.dataclass(frozen=True)
class _Tokens(grain.transforms.Map):
    """Tokenizes a whole batch at once, which the Rust tokenizers do much faster than one by one."""

    tokenize: Tokenize

    def map(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        captions = [str(c) for c in batch["caption"]]
        tokens = np.asarray(self.tokenize(captions), np.int32)
        return {"image": batch["image"], "tokens": tokens, "sizes": batch["sizes"]}


def fit(
    data: bytes, size: int, *, zoom: float = 1.0, position: tuple[float, float] = (0.5, 0.5), grid: int = 1, mirror: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Decodes, resizes the short side to round(size × zoom), and crops a square.

    Args:
        data: an encoded image.
        size: of the square, pixels.
        position: of the window, (down, across), from 0 (top, left) to 1.
        grid: the window's corner is at multiples of this many pixels of the resized image.
        mirror: left-right, before the crop, so that the crop's corner belongs to the picture as it is seen.

    Returns:
        uint8 [size, size, 3], and int32 [6] = original height, width, crop top, left, target height, width.

    Raises:
        InputError: the image is damaged, too large, or so long that the corner's place is no int32.
    """
    opened = open_image(data)
    height, width = upright_size(opened)
    short = round(size * zoom)
    scale = short / min(height, width)
    resized = (max(short, round(width * scale)), max(short, round(height * scale)))
    if max(resized) > np.iinfo(np.int32).max:
        raise InputError(f"image of {width}x{height} pixels is too long to be resized to a short side of {short}")
    image = decode_rgb(opened, short_side=2 * short)  # twice, so that what reduces at the end is still the better filter
    rooms = ((resized[1] - size) // grid, (resized[0] - size) // grid)
    top, left = (grid * min(int(p * (room + 1)), room) for p, room in zip(position, rooms))
    # Only the window is resized, and not the whole image: a strip of 200000x1 pixels would need 146 GiB for 512 rows. The
    # filter still sees the pixels around the window, so the result is that of resizing everything and then cropping.
    start = resized[0] - size - left if mirror else left
    across, down = image.width / resized[0], image.height / resized[1]  # of the decoded image, per pixel of the resized
    box = (start * across, top * down, min((start + size) * across, image.width), min((top + size) * down, image.height))
    # reducing_gap: a fast box reduction first, but to no less than 3 times the result, where it cannot be told apart
    image = image.resize((size, size), Image.Resampling.LANCZOS, box=box, reducing_gap=3.0)
    if mirror:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(image)
    return pixels, np.array([height, width, top, left, size, size], np.int32)
