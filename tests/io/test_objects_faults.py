"""Stores that fail now and then, fail for good, or know nobody's credentials."""

import asyncio
import os
import subprocess
import sys
import types
from pathlib import Path

import faulty_proxy
import pytest
from object_servers import BUCKET, environment, serving

from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import fetching, snapshots
from data_pipeline.io.objects.lease import Lease
from data_pipeline.io.objects.opening import refusal
from data_pipeline.io.objects.store import TRIES, WAIT, Store


@pytest.fixture(params=["s3", "gs"])
def faulty(request, monkeypatch):
    """Yield (an address, the proxy before its server), with waits of no length."""
    with serving(request.param) as port, faulty_proxy.before(port, share=0.1, seed=3) as proxy:
        for name, value in environment(request.param, proxy.port).items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(faulty_proxy, "SLOW", 0.05)
        monkeypatch.setattr("data_pipeline.io.objects.store.WAIT", 0.0)

        async def at_once(_: float) -> None:
            return

        waiting = types.SimpleNamespace(**{**vars(asyncio), "sleep": at_once})
        for library in ("gcsfs.retry", "s3fs.core", "aiobotocore.retries.standard"):
            monkeypatch.setattr(f"{library}.asyncio", waiting)
        yield f"{request.param}://{BUCKET}", proxy


def test_what_a_faulty_store_has_is_what_was_published(faulty, tmp_path):
    address, proxy = faulty
    store = Store(f"{address}/run")
    lease = Lease(store, "--workdir", 60)
    tree, contents = None, {}
    for turn in range(4):
        for number in range(12):
            contents[f"{turn}/{number}"] = os.urandom(1000 + 100 * number)
        contents["log"] = os.urandom(500 + turn)
        for name, data in contents.items():
            (tmp_path / "work" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "work" / name).write_bytes(data)
        found = snapshots.whole(tmp_path / "work")
        tree = snapshots.publish(store, tmp_path / "work", found, tree, lease.check)
    fetching.fetch(store, tmp_path / "read")
    for name, data in contents.items():
        assert (tmp_path / "read" / name).read_bytes() == data
    lease.release()
    assert set(proxy.faults) == set(faulty_proxy.KINDS)


def test_a_store_that_stays_down_ends_in_one_line(faulty):
    address, proxy = faulty
    store = Store(f"{address}/run", tries=2)
    store.replace("x", b"1", None)
    proxy.down = True
    before = proxy.requests
    with pytest.raises(OSError, match=r"x: the store failed 2 times") as caught:
        store.read("x")
    assert "\n" not in str(caught.value)
    assert 2 <= proxy.requests - before <= 60  # of all layers together


def test_a_bucket_that_is_not_there_is_named(faulty):
    address, proxy = faulty
    proxy.share = 0.0
    store = Store(f"{address}-other/run")
    with pytest.raises(InputError, match="there is no such bucket; make it first"):
        store.replace("x", b"1", None)


@pytest.mark.parametrize(
    ("address", "words"),
    [("s3://b/run", "run aws configure"), ("gs://b/run", "run gcloud auth application-default")],
)
def test_missing_credentials_are_said_at_once(address, words, tmp_path):
    known = ("PATH", "PYTHONPATH", "LANG")
    env = {name: os.environ[name] for name in known if name in os.environ}
    # no metadata server is asked
    env |= {"HOME": str(tmp_path), "AWS_EC2_METADATA_DISABLED": "true", "NO_GCE_CHECK": "true"}
    command = [sys.executable, "-m", "cv3jax", "status", address]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"cv3jax: {address}: no credentials were found (")
    assert words in line


def test_a_refusal_is_not_tried_again():
    forbidden = refusal(OSError("Forbidden: https://x\nno"), "gs://b/run", "tree.json")
    assert "the store refuses tree.json (Forbidden: https://x)" in str(forbidden)
    assert refusal(PermissionError("Access Denied"), "s3://b/run", "x") is not None
    assert refusal(OSError("Bad gateway"), "gs://b/run", "x") is None


def test_the_document_says_how_often_a_request_is_tried():
    page = Path(__file__).parents[2] / "docs" / "scale" / "loader.md"
    waits = [f"{WAIT * 2**i:g}" for i in range(TRIES - 1)]
    times = ("never", "once", "twice", "three times", "four times", "five times")[TRIES]
    said = f"tried {times}, with waits of {', '.join(waits[:-1])} and {waits[-1]} seconds between"
    assert said in " ".join(page.read_text(encoding="utf-8").split())
