"""Test in processes of their own what importing cv3jax does, and what `Cascade` sets."""

import json
import os
import subprocess
import sys

import pytest

import cv3jax

HEAVY = ["jax", "jaxlib", "numpy", "flax", "orbax", "transformers", "PIL"]


def run(program: str, **env: str) -> object:
    """Return what a program prints as JSON, in a process whose environment sets no XLA or JAX."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("JAX", "XLA", "TF_CPP"))}
    done = subprocess.run(
        [sys.executable, "-c", f"import json, sys, os\n{program}"],
        env={**plain, "JAX_PLATFORMS": "cpu", **env},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_importing_cv3jax_imports_nothing_large():
    program = (
        f"import cv3jax; dir(cv3jax)\nprint(json.dumps([m for m in {HEAVY} if m in sys.modules]))"
    )
    assert run(program) == []


@pytest.mark.parametrize("name", ["Cascade", "CancelledError"])  # the first that isort imports
def test_a_name_sets_jax_up_before_a_backend_exists(name, tmp_path):
    program = """
import cv3jax
getattr(cv3jax, NAME)
import jax
from jax._src import xla_bridge
print(json.dumps({
    "backends": sorted(xla_bridge._backends),
    "cache": jax.config.jax_compilation_cache_dir,
    "kept from": jax.config.jax_persistent_cache_min_compile_time_secs,
    "flags": os.environ["XLA_FLAGS"],
    "pool": os.environ["XLA_CLIENT_MEM_FRACTION"],
    "log": os.environ["TF_CPP_MIN_LOG_LEVEL"],
}))
"""
    found = run(program.replace("NAME", repr(name)), HOME=str(tmp_path))
    assert found["backends"] == []
    assert found["cache"] == str(tmp_path / ".cache" / "cv3jax" / "xla")
    assert found["kept from"] == 0  # seconds: the small programs too
    assert "ynn" in found["flags"]
    assert found["pool"] == "0.9"
    assert found["log"] == "3"


def test_what_the_environment_sets_stays():
    program = "import cv3jax; cv3jax.Cascade\nimport jax\n"
    program += """
config = jax.config
found = config.jax_compilation_cache_dir, config.jax_persistent_cache_min_compile_time_secs
print(json.dumps(found))
"""
    found = run(program, JAX_COMPILATION_CACHE_DIR="/somewhere")
    assert found == ["/somewhere", 0]  # seconds: a restart finds every program
    least = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "2"}
    assert run(program, JAX_COMPILATION_CACHE_DIR="/somewhere", **least) == ["/somewhere", 2]


def test_all_names_are_there_and_no_others():
    assert dir(cv3jax) == sorted(cv3jax.__all__)
    for name in cv3jax.__all__:
        assert getattr(cv3jax, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'Cascad'"):
        _ = cv3jax.Cascad
