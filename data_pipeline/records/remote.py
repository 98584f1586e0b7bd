"""Datasets of records in a bucket (s3://, gs://), which are read from a cache on this host's disk.

Only their shards are there in part; the files beside these are fetched when they are needed.
"""

import dataclasses
import functools
import hashlib
import math
import shutil
from pathlib import Path

from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory
from data_pipeline.io.objects import places
from data_pipeline.io.objects.store import Store, address_of
from data_pipeline.io.progress import say
from data_pipeline.records import CacheSettings, repeats, sizes
from data_pipeline.records.fetching import Fetching
from data_pipeline.records.reading import Shard, described_shards
from data_pipeline.records.records import FEATURES, RecordSource, open_records
from data_pipeline.records.shard_cache import ABOUT, DATASET, FOLDER, SHARD, ShardCache, shared

DESCRIPTION = ("dataset_info.json", "features.json")
BESIDE = (*DESCRIPTION, sizes.NAME, repeats.NAME)  # what is read beside the shards
SPARE = 2  # shards that fit beside two windows, for records that are read out of order


NO_CACHE = CacheSettings()


class RemoteRecords(RecordSource):
    """The records of a dataset in a bucket, for random access. `name` is its address."""

    def __init__(self, address: str, shards: list[Shard], fetching: Fetching, files: "_Files"):
        """Use the described shards; `fetching` has their sizes."""
        super().__init__(address, shards, FEATURES, fetching.fetch)
        self._fetching, self._files = fetching, files
        fetching.cache.readers.add(self)

    def __reduce__(self):
        """Return how to read from another process."""
        return RemoteRecords, (self.name, self._shards, self._fetching, self._files)

    @property
    def files(self) -> list[tuple[str, int]]:
        """Return (name, bytes) of each shard."""
        names = [path.name for path in self._fetching.paths]
        return list(zip(names, self._fetching.sizes, strict=True))

    def beside(self, name: str) -> Path:
        """Return where the dataset's file `name` is, after it was fetched if the bucket has it.

        Raises:
            InputError: it is the file of the pictures' sizes, and the bucket does not have it.
            OSError: the store or the disk fails.
        """
        if name == sizes.NAME and name not in self._files.found:
            raise InputError(
                f"{self.name} has no {name}, which min_side and buckets need; copy the one that"
                " opening the dataset on a disk makes there"
            )
        return self._files.get(name)

    def want(self, stream: tuple[int, ...], now: list[int], then: list[int]) -> None:
        """Fetch the shards that a stream reads now and then, and close those that none reads."""
        self._readers.keep(self._fetching.want(stream, now, then))

    def removed(self, path: Path) -> None:
        """Close a shard whose file was removed."""
        if (shard := self._numbers.get(path)) is not None:
            self._readers.close(shard)

    @functools.cached_property
    def _numbers(self) -> dict[Path, int]:
        return {path: number for number, path in enumerate(self._fetching.paths)}

    @property
    def room(self) -> int:
        """Return the bytes that the cache may take."""
        return self._fetching.cache.most

    def needed(self, window: int, share: float) -> int:
        """Return the bytes of the shards that must fit in the cache.

        window: the most shards of a window; 0: all records are shuffled. share: the share of each
        batch that this process reads.
        """
        each = sorted(self._fetching.sizes, reverse=True)
        if not window:
            return sum(each)
        whole, spare = sum(each[:window]), sum(each[:SPARE])
        # a share of a window's records is in that share of its shards, and in parts of two more
        read = min(whole, math.ceil(share * whole) + spare)
        return min(2 * read + spare, sum(each))


@dataclasses.dataclass(frozen=True)
class _Files:
    """What is beside the shards of a dataset in a bucket, and its copy here."""

    address: str
    found: dict[str, tuple[int, str]]  # name → bytes, stamp
    folder: Path
    cache: ShardCache

    def get(self, name: str) -> Path:
        """Return where a file is here, after it was fetched if the bucket has it."""
        path = self.folder / name
        if name not in self.found:
            return path
        size = self.found[name][0]

        def download(place: Path) -> None:
            if size > 10**9:
                say(f"cv3jax: fetching {self.address}/{name}")
            Store(self.address).download(name, place)

        self.cache.get_about(path, size, download)
        return path


def cache_of(path: str | Path) -> CacheSettings:
    """Return a cache for a command that reads a dataset's records in order, and is given none.

    It is beside the copies of addresses, and takes at most half of what is free there.
    """
    if address_of(path) is None:
        return NO_CACHE
    place = places.base() / "records"
    place.mkdir(parents=True, exist_ok=True)
    return CacheSettings(place, min(CacheSettings.size, shutil.disk_usage(place).free // 2))


def open_any(path: str | Path, cache: CacheSettings) -> RecordSource:
    """Return the records of a dataset on this machine or in a bucket.

    Raises:
        InputError: as `open_records` does, or there is no directory for the cache of a bucket.
        OSError: the store or the disk fails.
    """
    address = address_of(path)
    if address is None:
        return open_records(path)
    if cache.directory is None:
        raise InputError(
            f"{address} is in a bucket; give data.cache_dir, a directory on this host's disk for"
            " the shards that are read, and data.cache_gb"
        )
    inside = cache.directory.absolute() / FOLDER
    check_directory(inside, "data.cache_dir")
    held = shared(inside, cache.size)
    found = _listed(address)
    version = hashlib.sha256(repr(sorted(found.items())).encode()).hexdigest()[:12]
    own = hashlib.sha256(address.encode()).hexdigest()[:12]
    folder = held.folder / ABOUT / f"{own}-{version}"
    with held.locked(ABOUT):
        folder.mkdir(parents=True, exist_ok=True)
        held.use(f"{ABOUT}/{folder.name}", [folder], [])
        used = held.used()
        for old in folder.parent.glob(f"{own}-*"):  # other versions of this dataset
            ours = DATASET.fullmatch(old.name) and old.is_dir()
            if ours and f"{ABOUT}/{old.name}" not in used:
                shutil.rmtree(old)
    files = _Files(address, {n: found[n] for n in BESIDE if n in found}, folder, held)
    for name in DESCRIPTION:
        if name not in found:
            raise InputError(
                f"{address} is not a record dataset: it has no {name}; give the address of a"
                " directory of records, such as `cv3jax data pack` makes of pictures"
            )
        files.get(name)
    shards = described_shards(folder, address, FEATURES)
    if missing := [shard.path.name for shard in shards if shard.path.name not in found]:
        raise InputError(
            f"shard {address}/{missing[0]} is missing; restore the object or build the dataset"
            " again"
        )
    _check_disk(held, cache)
    place = held.folder / f"{own}-{version}"
    place.mkdir(exist_ok=True)
    shards = [Shard(place / shard.path.name, shard.length) for shard in shards]
    fetching = Fetching(
        address, held, [x.path for x in shards], [found[x.path.name][0] for x in shards]
    )
    return RemoteRecords(address, shards, fetching, files)


@functools.lru_cache(16)
def _listed(address: str) -> dict[str, tuple[int, str]]:
    """Return {name: (bytes, stamp)} of a dataset's own files; a process lists them once.

    What else lies at the address is none of the dataset, and does not make another version of it.
    """
    found = Store(address).stamps("")
    return {n: x for n, x in found.items() if n in BESIDE or SHARD.fullmatch(n)}


def _check_disk(held: ShardCache, cache: CacheSettings) -> None:
    """Raise InputError where the disk has less room than the cache may take."""
    free = shutil.disk_usage(held.folder).free + held.held()
    if free < cache.size:
        raise InputError(
            f"data.cache_gb = {cache.size / 1e9:g}, but the disk of {cache.directory} has"
            f" {free / 1e9:.3g} GB for it; give less, or another data.cache_dir"
        )
