"""Open an engine of a small random cascade, once for several tests."""

import pytest
import random_cascades as rc

from cv3jax.cascade.sizes import Size
from cv3jax.serving.engine.opening import EngineSettings, engine_of

SIZES = (Size(32, 32), Size(64, 64), Size(16, 16))


@pytest.fixture(scope="session")
def small_cascade():
    return rc.cascade()


@pytest.fixture(scope="session")
def small_engine(small_cascade):
    """Return an engine with batches of up to four rows, and what it said when it was opened."""
    said = []
    engine = engine_of(small_cascade, EngineSettings(SIZES, batch=4), said.append)
    engine.start()
    yield engine, said
    assert engine.stop(0.0) == 0


@pytest.fixture
def server(tmp_path):
    """Return a running server with an engine of squares."""
    import http_server

    with http_server.running(tmp_path / "data") as found:
        yield found
