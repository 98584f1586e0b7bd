"""Test that accepted jobs are drawn once, whatever happens to the process, and to its disk."""

import collections
import contextlib
import dataclasses
import errno
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path
from unittest import mock

import http_server
import pytest
import serve_process
import small_disks
import subprocesses

from cv3jax.serving.http import drawing, journal, parameters
from cv3jax.serving.http.journal import Journal, PictureRow, Row
from cv3jax.serving.http.plan import plan_generation
from cv3jax.serving.http.store import Store
from data_pipeline.io.errors import InputError


def test_after_kill_9_each_accepted_job_is_drawn_once(tmp_path):
    """Three kills; the last process draws what is left, and every result can be fetched."""
    ids: list[str] = []
    for round in range(3):
        server = serve_process.Process(tmp_path / "data")
        ids += [
            server.ask("/v1/jobs", {"prompt": f"star {round} {i}", "n": 2, "seed": 7})["id"]
            for i in range(4)
        ]
        code, _ = server.end(signal.SIGKILL)
        assert code == -signal.SIGKILL
    server = serve_process.Process(tmp_path / "data", pause=0.0)
    try:
        results = {}
        for id in ids:
            while (job := server.ask(f"/v1/jobs/{id}"))["state"] in ("accepted", "running"):
                time.sleep(0.01)
            assert job["state"] == "done"
            results[id] = server.ask(f"/v1/jobs/{id}/result")["data"]
        assert [[one["seed"] for one in data] for data in results.values()] == [[7, 8]] * 12
        assert any("that a process before accepted" in line for line in server.said)
    finally:
        code, said = server.end(signal.SIGTERM)
    assert code == 0, said
    assert "Traceback" not in said
    book = Journal(tmp_path / "data" / "journal.sqlite")
    rows, known = [book.pictures(id) for id in ids], book.known()[1]
    book.close()
    kept = collections.Counter(one.file for pictures in rows for one in pictures)
    assert {*kept.values()} == {1}
    # no file but those of the journal: what a killed process left is gone
    assert {path.name for path in (tmp_path / "data" / "pictures").iterdir()} == known
    assert known >= kept.keys()


def test_a_picture_that_was_drawn_before_the_kill_is_not_drawn_again(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    model = http_server.model()
    values = parameters.read({"prompt": "a star", "n": 2, "seed": 1}, parameters.GENERATION)
    with http_server.running(tmp_path / "other") as other:
        plan = plan_generation(values, model, other.engine.sizes)
        made = other.post("/v1/images/generations", {"prompt": "a star", "response_format": "url"})
        name = made.json["data"][0]["url"].rpartition("/")[2]
        png = (tmp_path / "other" / "pictures" / name).read_bytes()
    (data / "pictures").mkdir()
    (data / "pictures" / name).write_bytes(png)
    (data / "pictures" / ".half.png").write_bytes(png[:9])
    kept = Journal(data / "journal.sqlite")
    kept.add(Row("job_a", "", None, "", plan, time.time()))
    kept.add_picture("job_a", PictureRow(0, name, len(png), {"seed": 1}))
    kept.close()
    with http_server.running(data) as server:
        assert server.wait("job_a")["state"] == "done"
        assert [order.id for order in server.engine.submitted] == ["job_a.1"]
        shown = server.get("/v1/jobs/job_a").json["pictures"]
        assert shown[0]["url"].endswith(name)
        assert len(list((data / "pictures").iterdir())) == 2


def test_an_edit_is_resumed_with_its_picture(tmp_path):
    body, kind = http_server.form([("prompt", "slow"), ("image", http_server.png(30, 20))])
    with http_server.running(tmp_path / "data", bounds={"drain": 0.0}) as server:
        job = server.ask("POST", "/v1/jobs", body, {"Content-Type": kind}).json
        server.end()
        assert server.figures == {"resumed": 0, "left": 1}
        assert server.engine.drawn == []
    with http_server.running(tmp_path / "data") as server:
        server.engine.hurry.set()
        done = server.wait(job["id"])
        assert (done["state"], done["size"]) == ("done", "60x40")
    assert list((tmp_path / "data" / "given").iterdir()) == []


def test_another_checkpoint_does_not_draw_the_jobs_of_before(tmp_path):
    with http_server.running(tmp_path / "data", bounds={"drain": 0.0}) as server:
        job = server.post("/v1/jobs", {"prompt": "slow"}).json
        server.end()
    other = dataclasses.replace(http_server.model(), fingerprint="f" * 64)
    with http_server.running(tmp_path / "data", model=other) as server:
        said = server.wait(job["id"])
        assert (said["state"], said["error"]["code"]) == ("failed", "cannot_be_resumed")
        assert "another checkpoint" in said["error"]["message"]


def test_sigterm_draws_what_is_accepted_and_exits_0(tmp_path):
    server = serve_process.Process(
        tmp_path / "data", "--json", str(tmp_path / "figures.json"), pause=0.1
    )
    id = server.ask("/v1/jobs", {"prompt": "a star"})["id"]
    code, said = server.end(signal.SIGTERM)
    assert (code, said.count("\n"), "Traceback" in said) == (0, 3, False), said
    assert json.loads((tmp_path / "figures.json").read_text())["left"] == 0
    kept = Journal(tmp_path / "data" / "journal.sqlite")
    assert kept.find(id).state == journal.DONE
    kept.close()


def test_a_server_that_stops_says_so_and_still_answers(tmp_path):
    with http_server.running(tmp_path / "data") as server:
        job = server.post("/v1/jobs", {"prompt": "slow star"}).json
        assert server.get("/readyz").status == 200
        server.loop.call_soon_threadsafe(server.stop.set)
        while (ready := server.get("/readyz")).status == 200:
            pass
        assert (ready.status, ready.json) == (503, {"status": "stopping"})
        server.engine.alive = 0.0  # the engine ends before the last answers are sent
        assert server.get("/readyz").json == {"status": "stopping"}
        assert server.get("/healthz").json == {"status": "alive"}
        refused = server.post("/v1/jobs", {"prompt": "a star"})
        assert (refused.status, refused.code) == (503, "server_stopping")
        assert refused.headers["retry-after"]
        assert server.get("/healthz").status == 200
        server.engine.hurry.set()
        server.thread.join()
        assert server.figures == {"resumed": 0, "left": 0}
        assert server.engine.drawn == [f"{job['id']}.0"]


def test_a_second_signal_does_not_wait_and_leaves_the_job_to_the_next_start(tmp_path):
    with http_server.running(tmp_path / "data", bounds={"drain": 1e6}) as server:
        answers = []
        ask = threading.Thread(
            target=lambda: answers.append(
                server.post("/v1/images/generations", {"prompt": "slow star"})
            )
        )
        ask.start()
        while not server.engine.submitted:
            time.sleep(0.01)
        server.end(hurry=True)
        ask.join()
        assert (answers[0].status, answers[0].code) == (503, "server_stopping")
        assert server.figures["left"] == 1
    with http_server.running(tmp_path / "data") as again:
        again.engine.hurry.set()
        assert again.wait(answers[0].headers["x-job-id"])["state"] == "done"


def fill(path: Path) -> None:
    """Write zeros until there is no room."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 1024)


def test_a_full_disk_refuses_new_jobs_and_loses_none(tmp_path, monkeypatch):
    with (
        small_disks.small_disk(tmp_path / "disk", 2**20, 2**20) as (disk, enlarge),
        http_server.running(disk / "data") as server,
    ):
        job = server.post("/v1/jobs", {"prompt": "slow star"}).json
        fill(disk / "filler")
        if not os.path.ismount(disk):  # where nothing may be mounted, the writes fail by hand
            full = OSError(errno.ENOSPC, "No space left on device")
            monkeypatch.setattr(Store, "_write", mock.Mock(side_effect=full))
            monkeypatch.setattr(Journal, "add", mock.Mock(side_effect=full))
        refused = server.post("/v1/jobs", {"prompt": "a star"})
        assert (refused.status, refused.code) == (507, "disk_full")
        assert server.get("/readyz").status == 503
        server.engine.hurry.set()
        while not server.engine.drawn:  # and the picture cannot be written
            time.sleep(0.01)
        assert server.get(f"/v1/jobs/{job['id']}").json["state"] == "running"
        assert server.post("/v1/jobs", {"prompt": "a star"}).code == "disk_full"
        monkeypatch.undo()
        (disk / "filler").unlink()
        enlarge()
        assert server.wait(job["id"])["state"] == "done"
        assert server.get("/readyz").status == 200
        assert server.post("/v1/images/generations", {"prompt": "a star"}).status == 200
        assert server.engine.drawn[0] == f"{job['id']}.0"
        assert len(server.engine.drawn) == 2


def test_a_server_with_nothing_to_draw_is_ready_again_when_its_disk_has_room(tmp_path, monkeypatch):
    monkeypatch.setattr(drawing, "AGAIN", (0.01, 0.02))
    full = OSError(errno.ENOSPC, "No space left on device")
    with http_server.running(tmp_path / "data") as server:
        with monkeypatch.context() as patched:
            patched.setattr(Store, "_write", mock.Mock(side_effect=full))
            patched.setattr(Journal, "add", mock.Mock(side_effect=full))
            assert server.post("/v1/jobs", {"prompt": "a star"}).code == "disk_full"
            time.sleep(0.1)
            assert server.get("/readyz").status == 503
        while server.get("/readyz").status == 503:
            time.sleep(0.01)
        assert [*(tmp_path / "data" / "given").iterdir()] == []
        assert server.post("/v1/images/generations", {"prompt": "a star"}).status == 200


def test_one_process_holds_a_directory(tmp_path):
    server = serve_process.Process(tmp_path / "data")
    argv = [sys.executable, "-m", "cv3jax", "serve", "--checkpoint", "scenes", "--port", "0"]
    done = subprocess.run(
        [*argv, "--workdir", str(tmp_path / "data")],
        env=subprocesses.environment(PYTHONPATH=os.pathsep.join(sys.path)),
        capture_output=True,
        text=True,
    )
    assert (done.returncode, "is in use by process" in done.stderr) == (2, True), done.stderr
    assert server.end(signal.SIGTERM)[0] == 0


def test_a_file_that_is_no_journal_is_refused(tmp_path):
    path = tmp_path / "journal.sqlite"
    path.write_bytes(b"something else " * 100)
    with pytest.raises(InputError, match="is no journal"):
        Journal(path)
    path.unlink()
    Journal(path).close()
    with sqlite3.connect(path) as db:
        db.execute("pragma user_version = 9")
    with pytest.raises(InputError, match="a journal of version 9"):
        Journal(path)


def test_old_pictures_make_room_on_a_full_disk(tmp_path, monkeypatch):
    """The journal cannot be changed before there is room; only the old files can make some."""
    full = mock.Mock(side_effect=OSError(errno.ENOSPC, "No space left on device"))
    monkeypatch.setattr(Journal, "forget", full)
    with http_server.running(tmp_path / "data", bounds={"keep": 1.0}) as server:
        made = server.post("/v1/images/generations", {"prompt": "a star"}).json
        assert server.get(f"/v1/jobs/{made['job']}/result").status == 200
        while any((tmp_path / "data" / "pictures").iterdir()):
            time.sleep(0.01)
        gone = server.get(f"/v1/jobs/{made['job']}/result")
        assert (gone.status, gone.code) == (404, "file_not_found")
        monkeypatch.undo()
        while server.get(f"/v1/jobs/{made['job']}").status == 200:
            time.sleep(0.01)
