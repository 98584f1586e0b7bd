"""Make a small dataset, tiny recipes that train on it, and feature caches of it.

Some of the records have recaptions. Each thing is made once.
"""

import functools
from pathlib import Path

import tiny_runs
from shared import once, root

from cv3jax.precompute import run as precomputing
from cv3jax.training.settings import StageSettings
from data_pipeline.records.feature_cache import EncodedSource, open_cache
from data_pipeline.records.records import RecordSource, RecordWriter, open_records

COUNT, SHARDS = 20, 3  # shards of 7, 7 and 6 records: batches that are not full
BATCH = 2


@functools.cache
def data() -> Path:
    """Write scenes, every second one with a recaption, and return their place."""
    with once("encode_data") as missing:
        if missing:
            records = open_records(tiny_runs.scenes())
            with RecordWriter(root() / "encode_data", shards=SHARDS) as writer:
                for i in range(COUNT):
                    record = records[i]
                    writer.write(
                        {
                            **record,
                            "recaption": f"a picture of {record['caption']}" if i % 2 else "",
                        }
                    )
    return root() / "encode_data"


def records() -> RecordSource:
    return open_records(data())


def config(stage: str, *fields: str) -> StageSettings:
    """Return the tiny recipe's settings on the middle quarters of images, on the trained base."""
    cascade = tiny_runs.trained("base").workdir
    return tiny_runs.config(
        stage,
        "data.zoom=(2.0, 2.0)",  # the scenes' relay has them
        "data.crop_grid=8",
        f"data.path={data()}",
        "data.recaption=0.5",
        f"cascade={cascade}",
        "init_from=",
        *fields,
    )


@functools.cache
def cache_of(latents: str | None, text: str | None) -> Path:
    """Encode the dataset for the relay and return the place of the feature cache."""
    name = f"encoded_{latents}_{text}"
    with once(name) as missing:
        if missing:
            precomputing.run(
                config("relay"), root() / name, latents=latents, text=text, batch=BATCH
            )
    return root() / name


def opened(latents: str | None, text: str | None) -> EncodedSource:
    return open_cache(cache_of(latents, text), records())


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
