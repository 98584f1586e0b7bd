"""Configure pytest: eight CPU devices and a compilation cache that is kept between sessions.

The devices are set before a backend is used for the first time.
"""

import gc
import os
import shutil
import tempfile
from pathlib import Path

import jax
import pytest
import shared
import subprocesses
from heeded import heed_in_children

from cv3jax.distributed.backend import tune_cpu
from data_pipeline.io import progress

heed_in_children()  # tests send signals to the commands that they start
# for the processes that tests start; this one has read it already
os.environ.setdefault("JAX_PLATFORMS", "cpu")
jax.config.update("jax_platforms", os.environ["JAX_PLATFORMS"])
tune_cpu()  # as every command does
# A program of eight devices that comes from the compile cache may start two collectives a device at
# once; with only as many threads as devices they wait for each other until XLA aborts. The pool is
# as large as this says.
os.environ.setdefault("NPROC", "64")
jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_compilation_cache_dir", str(Path(__file__).parent.parent / ".cache" / "jax"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
# XLA's expensive passes are off: the time of most tests is in compiling small programs, and what
# they ask does not depend on them. Modules that use `full_compiles` have them.
jax.config.update("jax_disable_most_optimizations", True)
given = os.environ.get("XLA_FLAGS", "")
os.environ["XLA_FLAGS"] = f"{given} {subprocesses.QUICK}"
jax.devices("cpu")  # which reads them
os.environ["XLA_FLAGS"] = given  # libtpu would end the process, it does not know them
# what a command says of its waits depends on how busy the machine is; tests of that set it
progress.SOON = 3600.0
# tracing makes many objects that live long: at Python's own thresholds, looking through them is a
# fifth of its time
gc.set_threshold(100_000, 50, 100)


# Files of more than half a minute, in the order in which the workers take them: long ones early, so
# that all end together. The first makes what many later ones need, and the next two need none of
# it.
LONG = (
    "distill_sample",
    "golden_end_to_end",
    "golden_losses",
    "bad_input",
    "bad_arguments",
    "golden_models",
    "distill_resume",
    "abstract",
    "sample",
    "quickstart",
    "distill",
    "distill_rounds",
    "hosts",
    "five_stages",
    "train",
    "train_ends",
    "sharding",
    "scenes_weights",
    "build",
    "golden_samplers",
    "finetune",
    "encode_training",
    "attention",
    "attention_hardware",
    "distill_refusals",
    "convert_out",
    "convert_out_own",
    "convert_pipeline",
    "encode",
    "encode_stops",
    "faults_checkpoints",
    "serve_command",
)

if shared.VARIABLE not in os.environ:
    os.environ[shared.VARIABLE] = tempfile.mkdtemp(prefix="cv3jax_tests_")


def pytest_collection_modifyitems(config, items):
    """Move long files to the front, and deselect GPU tests without a GPU.

    They are deselected instead of skipped, because they could show nothing there.
    """
    place = {f"test_{name}.py": i for i, name in enumerate(LONG)}
    if lost := [name for name in place if not next(Path(__file__).parent.glob(f"*/{name}"), None)]:
        raise pytest.UsageError(f"conftest.LONG names {', '.join(lost)}, which is not there")
    items.sort(key=lambda item: place.get(item.path.name, len(place)))
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked and (os.environ["JAX_PLATFORMS"] == "cpu" or jax.default_backend() != "gpu"):
        config.hook.pytest_deselected(items=marked)
        items[:] = [item for item in items if item not in marked]


def pytest_unconfigure(config):
    if not hasattr(config, "workerinput"):  # the process that made it
        shutil.rmtree(os.environ[shared.VARIABLE], ignore_errors=True)


@pytest.fixture
def full_compiles():
    """Compile with all passes of XLA during a test.

    Some tests depend on them; others spend their time in the programs and not in their compilation.
    """
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", True)


@pytest.fixture(scope="module", autouse=True)
def _older_objects_are_left_alone():
    """Exclude older objects from garbage collection in a module.

    JAX keeps so many objects that each collection would take 0.6 s.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="module")  # a browser's event loop must not outlive its tests
def chrome():
    import browser

    if browser.path() is None:
        pytest.skip(browser.MISSING)
    with browser.browser() as found:
        yield found
