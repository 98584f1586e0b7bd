"""Test the cache of compiled programs: its size on a disk, and its use from a bucket."""

import json
import os
import subprocess
import sys

import pytest
import subprocesses
from object_servers import BUCKET, environment, serving

from cv3jax.distributed import compile_cache
from cv3jax.distributed.backend import keep_compiled
from data_pipeline.io.errors import InputError

# three programs, as JAX names them, and how often each was in the cache
COUNTED = """
import json
import jax, jax.numpy as jnp
counts = {}
def count(event, **_):
    name = event.rpartition("/")[2]
    counts[name] = counts.get(name, 0) + 1
jax.monitoring.register_event_listener(count)
jax.jit(lambda x: jnp.sin(x) @ x.T)(jnp.ones((8, 8))).block_until_ready()
print(json.dumps(counts))
"""


def fill(place, **ages):
    """Write programs of 100 bytes, used so many days ago."""
    place.mkdir(exist_ok=True)
    for name, days in ages.items():
        (place / f"{name}-cache").write_bytes(b"x" * 100)
        then = 1e9 - days * 86_400
        os.utime(place / f"{name}-cache", (then, then))


def test_the_programs_that_were_used_last_stay(tmp_path):
    fill(tmp_path, old=9, new=1, mid=5)
    (tmp_path / "mine.txt").write_bytes(b"x" * 1000)
    os.utime(tmp_path / "old-cache", (1e9, 1e9 - 9 * 86_400))  # read since it was written
    compile_cache.prune(tmp_path, 200)
    left = {"old-cache", "new-cache", "mine.txt", compile_cache.PRUNED}
    assert {path.name for path in tmp_path.iterdir()} == left
    compile_cache.prune(tmp_path, 0)  # not twice a day
    assert {path.name for path in tmp_path.iterdir()} == left
    os.utime(tmp_path / compile_cache.PRUNED, (1e9, 1e9))
    compile_cache.prune(tmp_path, 0)
    assert {path.name for path in tmp_path.iterdir()} == {"mine.txt", compile_cache.PRUNED}


def test_nothing_is_written_where_there_is_no_program(tmp_path):
    compile_cache.prune(tmp_path, 0)
    compile_cache.prune(tmp_path / "none", 0)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("variable", "left"), [("1e-7", 1), ("0", 2), ("jax", 2)])
def test_a_command_keeps_the_directory_that_it_uses_within_the_size(
    variable, left, tmp_path, monkeypatch
):
    fill(tmp_path, one=1, two=2)
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path))
    if variable == "jax":
        monkeypatch.setenv("JAX_COMPILATION_CACHE_MAX_SIZE", "100")
    else:
        monkeypatch.setenv(compile_cache.VARIABLE, variable)
    keep_compiled()
    assert len(list(tmp_path.glob("*-cache"))) == left


@pytest.mark.parametrize("text", ["x", "-1", "nan", "1e7"])
def test_a_size_that_cannot_be_is_refused(text, monkeypatch):
    monkeypatch.setenv(compile_cache.VARIABLE, text)
    with pytest.raises(InputError, match=rf"CV3JAX_COMPILED_GB={text}: give 10⁹ bytes, from 0"):
        keep_compiled()


@pytest.mark.parametrize("kind", ["s3", "gs"])
def test_a_second_process_compiles_nothing_with_the_cache_in_a_bucket(kind):
    def counts():
        made = subprocess.run(
            [sys.executable, "-c", COUNTED],
            env=subprocesses.environment(**variables),
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert made.returncode == 0, made.stderr[-2000:]
        return json.loads(made.stdout)

    with serving(kind) as port:
        variables = {
            **environment(kind, port),
            "JAX_COMPILATION_CACHE_DIR": f"{kind}://{BUCKET}/.cache/xla",
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",  # asks Google's own servers
        }
        first, second = counts(), counts()
    assert first["cache_misses"] == first["compile_requests_use_cache"] == 3
    assert second["cache_hits"] == second["compile_requests_use_cache"] == 3
