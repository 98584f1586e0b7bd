"""Addresses in a bucket of each store, on loopback."""

import pytest
from object_servers import BUCKET, environment, serving


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request):
    with serving(request.param) as port, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(request.param, port).items():
            patch.setenv(name, value)
        yield f"{request.param}://{BUCKET}"


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    monkeypatch.setenv("CV3JAX_STORES", str(tmp_path / "stores"))
    return f"{server}/{tmp_path.name}"
