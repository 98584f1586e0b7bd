"""Provide the dataset, the dialogue and the call of all recaptioning tests."""

import dataclasses
import json

import pytest
from caption_answers import KEY, MODEL, solid
from recaption_runs import COUNT

from data_pipeline.images.decode import encode_png
from data_pipeline.recaption.run import recaption
from data_pipeline.recaption.settings import RecaptionSettings
from data_pipeline.records.records import RecordWriter, make_record


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write records whose images tell the server their number, in shards of 11, 10 and 10.

    Record i has the caption "old i"; some have a recaption.
    """
    out = tmp_path_factory.mktemp("recaption") / "d"
    with RecordWriter(out, shards=3) as writer:
        for i in range(COUNT):
            recaption = "of an earlier model" if i % 7 == 0 else ""
            writer.write(
                make_record(
                    encode_png(solid(i)),
                    f"old {i} {{x}}",
                    key=f"k/{i}",
                    recaption=recaption,
                    url=f"http://u/{i}",
                )
            )
    return out


@pytest.fixture(scope="module")
def template(tmp_path_factory):
    path = tmp_path_factory.mktemp("dialogue") / "d.json"
    turns = ["Describe it.", "Which colours?", "Merge {caption}."]
    path.write_text(
        json.dumps(
            {"turns": turns, "settings": {"temperature": 0, "seed": 3}, "triplet": "From {caption}"}
        )
    )
    return path


@pytest.fixture
def ask(data, template, tmp_path):
    """Return `recaption` with the arguments of all tests, into tmp_path / "out"."""

    def call(server, **changes):
        names = ("data", "triplets", "retry_failed", "overwrite", "share")
        given = {name: changes.pop(name) for name in names if name in changes}
        settings = RecaptionSettings(
            endpoint=getattr(server, "url", server),
            model=MODEL,
            key=KEY,
            dialogue=template,
            concurrency=8,
            timeout=20.0,
            retries=2,
            backoff=0.001,
        )
        return recaption(
            given.pop("data", data),
            tmp_path / "out",
            dataclasses.replace(settings, **changes),
            **given,
        )

    return call
