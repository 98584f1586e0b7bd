"""What --help imports: whoever asks for a flag need not wait for JAX and the libraries of a run."""

import subprocess
import sys

import subprocesses

# one process after the other would take a second each: what one command imported, the next has too
PROGRAM = """
import contextlib, io, sys
from cv3jax import cli
from data_pipeline import cli as data

HEAVY = ("jax", "tensorflow_datasets", "transformers", "tensorboardX", "matplotlib", "torch")
asked = ["", *cli.COMMANDS, *(f"data {name}" for name in data.COMMANDS)]
for words in asked:
    sys.argv = ["cv3jax", *words.split(), "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
        cli.main()
    loaded = [name for name in HEAVY if name in sys.modules]
    assert "usage: cv3jax" in shown.getvalue() and not loaded, (sys.argv, loaded)

import jax
print(len(asked), jax.config.jax_platforms, jax.config.jax_compilation_cache_dir)
"""


def test_help_imports_neither_jax_nor_what_a_run_needs(tmp_path):
    """What commands set for JAX holds all the same once something imports it."""
    environment = subprocesses.environment(HOME=str(tmp_path))
    del environment["JAX_COMPILATION_CACHE_DIR"]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True
    )
    assert done.stdout == f"14 cpu {tmp_path}/.cache/cv3jax/xla\n", done.stderr[-2000:]
