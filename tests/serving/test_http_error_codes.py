"""Test that every error code of the server is documented and produced by a test."""

import dataclasses
import errno
import re
from pathlib import Path
from unittest import mock

import http_server
import square_engine

from cv3jax.cascade.sizes import Size
from cv3jax.serving.http.journal import Journal

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "reference" / "serve_errors.md"
STAR = {"prompt": "a star"}


def codes() -> set[str]:
    """Return the codes in the sources: those of `ApiError`, and those that jobs end with."""
    folder = ROOT / "cv3jax" / "serving" / "http"
    text = "\n".join(path.read_text() for path in folder.glob("*.py"))
    given = set(re.findall(r'code="([a-z_]+)"', text))
    ends = set(re.findall(r'FAILED, [\w.()]+, "([a-z_]+)"', text))
    images = set(re.findall(r'"(\w+_image)"', text)) - {"partial_image"}
    return given | ends | images | {"not_found", "method_not_allowed", "invalid_request"}


def test_every_code_is_documented():
    documented = set(re.findall(r"`([a-z_]+)`", DOCUMENT.read_text()))
    assert len(codes()) > 35
    assert codes() - documented == set()


def test_every_code_is_produced_by_a_test():
    folders = (ROOT / "tests" / "serving", ROOT / "tests" / "helpers")
    text = "\n".join(path.read_text() for folder in folders for path in folder.glob("*.py"))
    assert {code for code in codes() if f'"{code}"' not in text} == set()


def test_a_checkpoint_without_a_relay_enlarges_nothing(tmp_path):
    model = http_server.model()
    stages = {"base": model.description.stages["base"]}
    model = dataclasses.replace(
        model, description=dataclasses.replace(model.description, stages=stages)
    )
    engine = square_engine.SquareEngine(chains=[(Size(64, 64),)])
    body, kind = http_server.form([("prompt", "red"), ("image", http_server.png(30, 20))])
    with http_server.running(tmp_path / "data", engine, model=model) as server:
        answer = server.ask("POST", "/v1/images/edits", body, {"Content-Type": kind})
        assert (answer.status, answer.code) == (400, "no_relay")
        assert server.get("/v1/capabilities").json["enlargements"] == []
        assert server.post("/v1/images/generations", STAR).json["size"] == "64x64"


def test_a_fault_of_the_program_shows_nothing_of_it(tmp_path, caplog):
    with http_server.running(tmp_path / "data") as server:
        server.engine.seconds = mock.Mock(side_effect=RuntimeError("a secret of the program"))
        answer = server.post("/v1/images/generations", STAR)
        assert (answer.status, answer.code) == (500, "internal_error")
        assert b"secret" not in answer.body
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert b'cv3jax_errors_total{kind="program"} 1.0' in server.get("/metrics").body
        del server.engine.seconds
        assert server.post("/v1/images/generations", STAR).status == 200
    assert "a secret of the program" in caplog.text  # the log has it


def test_a_failing_disk_accepts_nothing(tmp_path, monkeypatch):
    with http_server.running(tmp_path / "data") as server:
        failing = OSError(errno.EIO, "Input/output error")
        monkeypatch.setattr(Journal, "add", mock.Mock(side_effect=failing))
        answer = server.post("/v1/images/generations", STAR)
        assert (answer.status, answer.code) == (503, "disk_failed")
        assert server.engine.submitted == []
