"""Test training with the loader's options.

They are batches of several sizes, mixtures, damaged records and prefetch.
"""

import dataclasses
import itertools
import json

import jax
import numpy as np
import pytest
import tiny_runs
from states import untimed
from toy_runs import CADENCE, toy

from cv3jax.checkpoints import runs
from cv3jax.training import autoencoder
from cv3jax.training.build import build
from cv3jax.training.metrics import read_lines
from cv3jax.training.prefetch import Prefetch
from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.loading.loader import make_loader
from data_pipeline.loading.mixture import Mixture
from data_pipeline.loading.settings import CropSettings, LoaderSettings
from data_pipeline.records.records import RecordWriter, make_record, open_records

SIZES = ((32, 32), (32, 64))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write two datasets of noise, `square` and `wide`."""
    folder, draws = tmp_path_factory.mktemp("sizes"), np.random.default_rng(0)
    for name, width in (("square", 40), ("wide", 70)):
        with RecordWriter(folder / name, shards=2) as writer:
            for i in range(20):
                image = draws.integers(0, 256, (36, width, 3), dtype=np.uint8)
                writer.write(make_record(encode_png(image), f"noise {i}", key=f"{name}{i}"))
    return folder


def fields(data, *more):
    return (f"data.path={data}/square:1,{data}/wide:2", "data.buckets=32x32,32x64", *more)


@pytest.mark.slow
def test_each_size_is_one_compiled_step(data, tmp_path):
    config = tiny_runs.config("base", *tiny_runs.ALONE, "model.mid_depth=0", *fields(data))
    with tiny_runs.devices(1):
        pieces = build(config, tmp_path)
    assert pieces.data.sizes == SIZES
    state, seen = pieces.create(), []
    with tiny_runs.compilations() as compiled:
        pieces.compile()
        for batch in itertools.islice(pieces.data, 6):
            seen.append(batch["image"].shape[1:3])
            state, metrics = pieces.step(state, pieces.place(batch))
            assert np.isfinite(float(metrics["loss"]))
    assert set(seen) == set(SIZES)
    assert compiled.count("jit(train_step)") == 2
    assert compiled.count("jit(encode)") == 2
    assert seen.count((32, 64)) == 4  # the wide ones' share


def test_the_autoencoder_has_a_step_for_each_size_too(data, tmp_path, monkeypatch):
    shapes = []

    def instead(programs, state, frozen, batches):
        shapes.extend(
            [args[2]["image"].shape[1:3] for _, args in programs] + [batches["image"].shape[1:3]]
        )
        return [
            lambda state, frozen, batch, number=number: (state, number)
            for number in range(len(programs))
        ]

    monkeypatch.setattr(autoencoder, "compiled_and_announced", instead)
    config = tiny_runs.config("vae", *tiny_runs.ALONE, *fields(data))
    with tiny_runs.devices(1):
        pieces = build(config, tmp_path)
    pieces.compile()
    batches = list(itertools.islice(pieces.data, 6))
    taken = [pieces.step(None, batch)[1] for batch in batches]
    assert shapes == [*SIZES, (32, 64)]  # and the largest one's memory is announced
    assert [SIZES[number] for number in taken] == [batch["image"].shape[1:3] for batch in batches]


def test_a_run_of_several_sizes_resumes_as_if_it_had_not_stopped(data, tmp_path):
    def run(workdir, steps, threads):
        mixed = Mixture(
            [open_records(data / "square"), open_records(data / "wide")], [1, 2], "both"
        )
        loader = make_loader(
            mixed,
            LoaderSettings(
                batch_size=4,
                image_size=32,
                seed=0,
                crop=CropSettings(flip=True),
                num_threads=threads,
                buckets=SIZES,
            ),
        )
        return toy(
            workdir,
            data=loader,
            place=place,
            cadence=dataclasses.replace(CADENCE, steps=steps, log=1),
        )

    whole = run(tmp_path / "whole", 9, 2)
    run(tmp_path / "parts", 5, 1)
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path / "parts", 9, 0).params, whole.params)
    lines = [untimed(read_lines(tmp_path / name / "metrics.jsonl")) for name in ("parts", "whole")]
    assert lines[0] == lines[1]
    assert [line["step"] for line in lines[0]] == list(range(1, 10))


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("data.buckets=32x32,32x36", "buckets = 32x36: both sides must be multiples"),
        ("data.buckets=wide", "config.data.buckets: 'wide'"),
        ("data.path=none/here:2,none/there", "config.data.path: no records at none/here"),
        ("data.path=a:0,b", "config.data.path: .*positive"),
        ("data.workers=-1", "config.data.workers = -1"),
        ("data.max_damaged=-1", "config.data.max_damaged = -1"),
        ("data.cache=runs/none", "neither with a mixture of datasets nor"),
    ],
)
def test_fields_that_cannot_be_are_refused(field, says, data, tmp_path):
    with pytest.raises(InputError, match=says), tiny_runs.devices(1):
        build(tiny_runs.config("base", *tiny_runs.ALONE, *fields(data, field)), tmp_path)


def place(batch):
    return jax.device_put(batch["image"][:, 0, 0, :2].astype(np.float32) / 255)


def test_damaged_records_are_counted_in_the_metrics_and_after_a_restart(data, tmp_path):
    records = list(open_records(data / "square"))
    for i in (2, 11):
        records[i] = {**records[i], "image": b"gone"}
    wide = open_records(data / "wide")

    def run(workdir, steps, most=2):
        mixed = Mixture([wide, records], [1, 3], "both")
        loader = make_loader(
            mixed,
            LoaderSettings(batch_size=4, image_size=16, seed=0, num_threads=2, max_damaged=most),
        )
        return toy(
            workdir,
            data=loader,
            place=place,
            cadence=dataclasses.replace(CADENCE, steps=steps, log=1, save=2),
        )

    whole = run(tmp_path / "whole", 16)
    counts = [line["damaged"] for line in read_lines(tmp_path / "whole" / "metrics.jsonl")]
    assert counts == sorted(counts)
    assert set(counts) == {0, 1, 2}
    between = counts.index(1) + 2  # when one has come and the other has not, or has just
    run(tmp_path / "parts", between)
    jax.tree.map(np.testing.assert_array_equal, run(tmp_path / "parts", 16).params, whole.params)
    assert [line["damaged"] for line in read_lines(tmp_path / "parts" / "metrics.jsonl")] == counts
    saved = json.loads(
        (tmp_path / "parts" / "checkpoints" / "16" / "data" / "metadata").read_text()
    )
    assert sorted(saved["damaged"]) == ["1:11", "1:2"]
    with pytest.raises(
        InputError,
        match=r"damaged records: 2, but max_damaged = 1;.*the first: record 'square\d+' of",
    ):
        run(tmp_path / "bounded", 16, most=1)
    # all steps before it were done
    assert runs.steps(tmp_path / "bounded" / "checkpoints")[-1] == counts.index(2) // 2 * 2


class Numbers:
    """Load 0, 1, 2, and then raise an error."""

    def __init__(self):
        self.next = 0

    def __next__(self):
        if self.next == 3:
            raise InputError("the fourth")
        self.next += 1
        return self.next - 1

    def get_state(self):
        return {"next_index": self.next}


def test_a_prefetched_batch_is_not_counted_as_taken():
    placed = []
    batches = Prefetch(Numbers(), lambda x: placed.append(x) or 10 * x)
    assert next(batches) == 0
    batches.fetch()
    batches.fetch()  # one at most
    assert placed == [0, 1]
    assert batches.get_state() == {"next_index": 1}
    assert next(batches) == 10
    assert batches.get_state() == {"next_index": 2}
    assert next(batches) == 20
    batches.fetch()  # raises nothing yet
    assert batches.get_state() == {"next_index": 3}
    with pytest.raises(InputError, match="the fourth"):
        next(batches)
