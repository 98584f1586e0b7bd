"""Addresses in a bucket of each store, on loopback."""

import pytest
from object_servers import served


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request):
    with served(request.param) as found:
        yield found


@pytest.fixture
def bucket(server, tmp_path, monkeypatch):
    monkeypatch.setenv("CV3JAX_STORES", str(tmp_path / "stores"))
    return f"{server}/{tmp_path.name}"
