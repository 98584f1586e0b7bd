"""Test the status of a run whose workdir is in a bucket."""

import json
import time

import pytest
from object_servers import served

from cv3jax.commands.status import main
from cv3jax.training.stored_status import read_any
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects import lease, snapshots
from data_pipeline.io.objects.store import Store

BEAT = {"state": "running", "every": 5.0, "why": "", "doing": "step", "waits": []}


@pytest.fixture(scope="module", params=["s3", "gs"])
def store(request):
    with served(request.param) as found:
        yield Store(f"{found}/run")


def published(store, folder, **texts):
    """Publish a run with one checkpoint; files named by `texts` are in its workdir."""
    step = folder / "checkpoints" / "4"
    step.mkdir(parents=True, exist_ok=True)
    (step / "state").write_text("12")
    (step / "manifest.json").write_text('{"files": {"state": [2, "h"]}}')
    for name, text in texts.items():
        (folder / name.replace("_", ".")).write_text(text)
    found = dict.fromkeys(snapshots.whole(folder))
    snapshots.publish(store, folder, found, snapshots.read_tree(store))


def test_the_status_of_a_run_in_a_bucket(store, tmp_path, capsys):
    now = time.time()
    lines = "".join(json.dumps({"step": n, "loss": 1 / n, "seconds": n}) + "\n" for n in (2, 4))
    loop = {"name": "base", "step": 4, "steps": 8, "ended": now - 400}
    beat = {**BEAT, **loop, "pid": 7, "host": "far", "beat": now - 400}
    published(store, tmp_path, status_json=json.dumps(beat), metrics_jsonl=lines)
    status = read_any(store.address)
    assert (status["state"], status["step"], status["steps"]) == ("silent", 4, 8)
    assert status["workdir"] == store.address
    assert [step for step, _ in status["losses"]] == [2, 4]
    # published now, although the file's time is that of the download
    assert status["checkpoint"]["step"] == 4
    assert read_any(store.address, now + 500)["checkpoint"]["age_seconds"] >= 400
    # its lease is written more often than its files
    held = {"process": 7, "host": "far", "boot": "b", "since": "then", "beat": time.time()}
    store.replace(lease.NAME, json.dumps(held).encode(), None)
    assert read_any(store.address)["state"] == "running"
    main([store.address])
    assert f"{store.address}: base, running" in capsys.readouterr().out


def test_a_damaged_file_is_named_by_its_address(store, tmp_path):
    published(store, tmp_path, status_json="[")
    with pytest.raises(InputError, match=rf"^{store.address}/status.json is damaged"):
        read_any(store.address)


def test_an_address_without_a_run_is_refused(store):
    with pytest.raises(InputError, match=r"/nothing has no run: no tree.json"):
        read_any(f"{store.address}/nothing")
