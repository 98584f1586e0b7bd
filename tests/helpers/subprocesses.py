"""Run cv3jax commands in processes of their own.

Each has one CPU device and this session's compilation cache.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jaxlib

# XLA's older emitters of fusions and one piece of code a program: compiling takes two thirds of the
# time. A flag that XLA does not know ends the process.
QUICK = (
    "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
    if jaxlib.__version__.startswith("0.10.")
    else ""
)


def command(*args: str) -> list[str]:
    """Return a cv3jax command line for `subprocess`."""
    return [sys.executable, "-m", *args]


def environment(**extra: str) -> dict[str, str]:
    """Return a subprocess's environment: one CPU device, this session's compilation cache."""
    cache = str(jax.config.jax_compilation_cache_dir)
    fixed = {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": "1",
        "JAX_COMPILATION_CACHE_DIR": cache,
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {QUICK}".strip(),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
    }
    # see conftest.py
    return {
        **{name: value for name, value in os.environ.items() if name != "NPROC"},
        **fixed,
        **extra,
    }


def foreign(stderr: str) -> list[str]:
    """Return the lines of a command's stderr that libraries and compilers print."""
    ours = r"[a-z][a-z0-9 ]*: |[|\d]|all \d"
    lines = filter(None, stderr.split("\n"))  # splitlines() would end them at \r as well
    return [line for line in lines if "\r" in line or not re.match(ours, line)]


def run(*args: str, cwd: Path | None = None, **extra: str) -> subprocess.CompletedProcess:
    """Run a cv3jax command to its end and require success."""
    done = subprocess.run(
        command(*args),
        env=environment(**extra),
        cwd=cwd,
        capture_output=True,
        timeout=600,
    )
    # not text=True, which makes newlines of carriage returns
    done.stdout, done.stderr = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 0, done.stderr[-2000:]
    return done
