"""Test the base's own picture of a job, its place in the queue, and the files of the page."""

import io
import re
import time
from pathlib import Path

import http_server
import pytest
from PIL import Image
from square_engine import SquareEngine

from cv3jax.serving.http import app


@pytest.fixture
def server(tmp_path):
    with http_server.running(tmp_path / "data") as found:
        yield found


def test_the_base_s_picture_is_there_while_the_relay_draws_and_after(server):
    server.engine.pause = 0.2
    job = server.post("/v1/jobs", {"prompt": "a star", "n": 2, "size": "128x128"}).json
    path = f"/v1/jobs/{job['id']}/base/1"
    early = server.get(path)
    assert (early.status, early.code) == (404, "base_not_found")
    while not (said := server.get(f"/v1/jobs/{job['id']}").json)["pictures"][1]["base"]:
        assert said["state"] != "done"
    during = server.get(path)
    assert Image.open(io.BytesIO(during.body)).size == (64, 64)
    server.engine.pause = 0.0
    done = server.wait(job["id"])
    assert [one["base"] for one in done["pictures"]] == [True, True]
    after = server.get(path)
    assert (after.headers["content-type"], after.body) == ("image/png", during.body)
    for wrong in ("2", "99999999999999999999", "-1", "x"):
        assert server.get(f"/v1/jobs/{job['id']}/base/{wrong}").status == 404


def test_the_base_s_picture_survives_the_server_and_goes_with_its_job(tmp_path):
    with http_server.running(tmp_path / "data") as server:
        job = server.post("/v1/jobs", {"prompt": "a star"}).json["id"]
        server.wait(job)
    files = tmp_path / "data" / "pictures"
    assert len([*files.iterdir()]) == 2
    with http_server.running(tmp_path / "data") as server:
        assert server.get(f"/v1/jobs/{job}/base/0").status == 200
    with http_server.running(tmp_path / "data", bounds={"keep": 0.01}) as server:
        until = time.monotonic() + 20
        path = f"/v1/jobs/{job}/base/0"
        # the file goes first, and its job a moment later
        while server.get(path).code != "job_not_found" and time.monotonic() < until:
            time.sleep(0.02)
        assert server.get(path).code == "job_not_found"
        assert [*files.iterdir()] == []


def test_no_base_picture_without_a_relay_for_a_plain_request_or_beside_a_check(tmp_path):
    class Blind:
        def allows(self, image: Image.Image) -> bool:
            return True

    with http_server.running(tmp_path / "a") as server:
        alone = server.wait(server.post("/v1/jobs", {"prompt": "a", "size": "64x64"}).json["id"])
        assert alone["pictures"][0]["base"] is False
        server.post("/v1/images/generations", {"prompt": "a"})
        assert len([*(tmp_path / "a" / "pictures").iterdir()]) == 2
    with http_server.running(tmp_path / "b", safety=Blind()) as server:
        checked = server.wait(server.post("/v1/jobs", {"prompt": "a"}).json["id"])
        assert checked["pictures"][0]["base"] is False


def test_a_job_knows_how_many_pictures_are_before_it(server):
    first = server.post("/v1/jobs", {"prompt": "slow", "n": 3}).json
    second = server.post("/v1/jobs", {"prompt": "slow"}).json
    assert (first["ahead"], second["ahead"]) == (0, 3)
    server.ask("DELETE", f"/v1/jobs/{first['id']}")
    assert server.get(f"/v1/jobs/{second['id']}").json["ahead"] == 0


def test_the_page_s_files_have_their_types_and_need_no_other_host(tmp_path):
    with http_server.running(tmp_path / "data", SquareEngine()) as server:
        types = {
            ".html": "text/html; charset=utf-8",
            ".js": "text/javascript; charset=utf-8",
            ".css": "text/css; charset=utf-8",
            ".svg": "image/svg+xml",
        }
        for file in app.PAGE.iterdir():
            answer = server.get(f"/{file.name}")
            assert answer.headers["content-type"] == types[file.suffix]
            assert answer.body == file.read_bytes()
            rules = answer.headers["content-security-policy"]
            assert "unsafe" not in rules
            assert "default-src 'none'" in rules
        assert server.get("/").body == (app.PAGE / "index.html").read_bytes()
    for file in app.PAGE.iterdir():
        text = file.read_text().replace('xmlns="http://www.w3.org/2000/svg"', "")
        assert re.findall(r"https?://|innerHTML|\beval\b|\bstyle=|document\.write", text) == []
        for name in named(text):
            assert (app.PAGE / name).is_file()


def named(text: str) -> list[str]:
    """Return the files of the page that a file names."""
    found = re.findall(r'(?:src|href|from) ?=? ?"(?:\./)?([\w.]+\.\w+)"', text)
    assert all(Path(name).name == name for name in found)
    return found
