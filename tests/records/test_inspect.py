"""Test that `cv3jax data inspect` shows a random sample that depends on the seed."""

import json

import numpy as np
import pytest

from data_pipeline.cli import main
from data_pipeline.images.decode import encode_png
from data_pipeline.records import inspect
from data_pipeline.records.records import RecordWriter, make_record

COUNT = 60


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    out = tmp_path_factory.mktemp("inspect") / "data"
    with RecordWriter(out, shards=2) as writer:
        for i in range(COUNT):
            picture = np.full((8, 8, 3), i, np.uint8)
            writer.write(make_record(encode_png(picture), f"number {i}", key=f"{i:02d}"))
    return out


def look(data, tmp_path, *flags):
    main(["inspect", str(data), "--json", str(tmp_path / "i.json"), *flags])
    return json.loads((tmp_path / "i.json").read_text())


def test_the_records_shown_are_drawn_by_the_seed(data, tmp_path, capsys):
    some = [look(data, tmp_path, "--num", "9", "--seed", seed) for seed in ("0", "0", "1")]
    assert some[0] == some[1]
    assert some[0]["shown"] != some[2]["shown"]
    for figures in some:
        assert len(set(figures["shown"])) == 9
        assert figures["shown"] == sorted(figures["shown"])
    printed = capsys.readouterr().out.split("captions:\n")[3].splitlines()
    assert printed == [f"  {c.removeprefix('number '):>02}: {c}" for c in some[2]["captions"]]


def test_every_record_can_be_shown_and_none_is_preferred():
    drawn = [i for seed in range(400) for i in inspect.sample(COUNT, 15, seed)]
    counts = np.bincount(drawn, minlength=COUNT)  # of each, 100 is expected; deviation 8.7
    assert counts.min() > 100 - 5 * 8.7
    assert counts.max() < 100 + 5 * 8.7


def test_of_few_records_all_are_shown(data, tmp_path):
    figures = look(data, tmp_path, "--num", "400", "--seed", "3")
    assert figures["shown"] == list(range(COUNT))
    assert len(figures["captions"]) == COUNT
