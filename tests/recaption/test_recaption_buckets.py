"""Test recaptioning with the dataset, the journals, the parts and the output in a bucket."""

import collections
import json

import pytest
from caption_answers import KEY, MODEL
from caption_server import CaptionServer
from object_servers import BUCKET, environment, serving
from recaption_runs import COUNT, TURNS

from data_pipeline.chat import rate_limit
from data_pipeline.chat.endpoint import StoppedByServerError
from data_pipeline.cli import main
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.fetched import fetched
from data_pipeline.io.objects.store import Store
from data_pipeline.io.shares import Share
from data_pipeline.recaption.output import REPORT
from data_pipeline.recaption.settings import RecaptionSettings
from data_pipeline.recaption.stored import recaption_any


@pytest.fixture(scope="module")
def server(data):
    """Serve a bucket with the dataset, as another program uploads one."""
    with serving("s3") as port, pytest.MonkeyPatch.context() as patch:
        for name, value in environment("s3", port).items():
            patch.setenv(name, value)
        for path in data.iterdir():
            Store(f"s3://{BUCKET}/photos").upload(path, path.name)
        yield f"s3://{BUCKET}"


@pytest.fixture
def call(server, template, tmp_path, monkeypatch):
    """Return `recaption_any` on a machine of that name, from the bucket and into it."""
    monkeypatch.setattr(rate_limit, "FIRST", 2000.0)

    def call(captions, machine, **given):
        monkeypatch.setenv("CV3JAX_STORES", str(tmp_path / machine))
        settings = RecaptionSettings(
            endpoint=captions.url,
            model=MODEL,
            key=KEY,
            dialogue=template,
            concurrency=8,
            retries=2,
            backoff=0.001,
            limit=given.pop("limit", None),
        )
        out = f"{server}/{tmp_path.name}/out"
        return recaption_any(given.pop("data", f"{server}/photos"), out, settings, **given)

    return call


def content(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != REPORT}


def published(server, tmp_path):
    place = fetched(f"{server}/{tmp_path.name}/out", "--input")
    return content(place), json.loads((place / REPORT).read_text())


@pytest.fixture
def whole(ask, tmp_path):
    """Return what a run on disks makes."""
    with CaptionServer() as captions:
        ask(captions)
    return content(tmp_path / "out")


def test_a_stopped_run_goes_on_on_another_machine(call, server, whole, tmp_path):
    with CaptionServer(lambda r, t, a: "ok" if r < 6 else "broke") as captions:
        with pytest.raises(StoppedByServerError):
            call(captions, "one")
        first = collections.Counter((s.record, s.turn) for s in captions.seen if s.action == "ok")
    with CaptionServer() as captions:
        report = call(captions, "two")
        again = collections.Counter((seen.record, seen.turn) for seen in captions.seen)
        assert first
        assert not first & again
        assert sum((first + again).values()) == TURNS * COUNT
        assert published(server, tmp_path) == (whole, report)
        out = f"{server}/{tmp_path.name}/out"
        assert report["source"] == f"{server}/photos"
        assert report["journal"] == f"{out}.recaption/journal.jsonl"
        with pytest.raises(InputError, match=rf"--out {out} already holds a dataset; give --over"):
            call(captions, "two")
        sent = len(captions.seen)
        assert call(captions, "three", overwrite=True)["recaptioned"] == COUNT
        assert len(captions.seen) == sent


def test_parts_on_two_machines_make_the_dataset_of_one(call, server, whole, tmp_path):
    with CaptionServer() as captions:
        first = call(captions, "one", share=Share(0, 2))
        assert first["lacking"] == [1]
        out = f"{server}/{tmp_path.name}/out"
        with pytest.raises(InputError, match=r"has answers of 2 parts, not 3; give --part I/2"):
            call(captions, "one", share=Share(0, 3))
        last = call(captions, "two", share=Share(1, 2))
        assert published(server, tmp_path) == (whole, last)
        assert (last["parts"], last["recaptioned"]) == (2, COUNT)
        assert last["journal"] == f"{out}.recaption"
        assert not Store(f"{out}.parts").sizes("")
        sent = len(captions.seen)
        assert sent == TURNS * COUNT
        assert call(captions, "three", share=Share(0, 2)) == last
        assert len(captions.seen) == sent


def test_a_limited_run_leaves_its_answers_alone(call, server, tmp_path):
    with CaptionServer() as captions:
        assert call(captions, "one", limit=3)["recaptioned"] == 3
    names = Store(f"{server}/{tmp_path.name}").sizes("")
    assert {"out.recaption/journal.jsonl", f"out.recaption/{REPORT}"} < names.keys()
    assert not any(name.startswith("out/") and "lease" not in name for name in names)


def test_wrong_addresses_are_one_line(call, server, tmp_path):
    with CaptionServer() as captions:
        with pytest.raises(InputError, match=rf"{server}/none is not a record dataset: it has no"):
            call(captions, "one", data=f"{server}/none")
        with pytest.raises(InputError, match="is the dataset itself"):
            call(captions, "one", data=f"{server}/{tmp_path.name}/out")
    given = ["--input", f"{server}/photos", "--endpoint", "http://127.0.0.1:9/v1", "--model", "m"]
    for out, line in (("hdfs://b/x", "must be a path on this"), (server, "this is a whole bucket")):
        with pytest.raises(InputError, match=line):
            main(["recaption", *given, "--out", out])
