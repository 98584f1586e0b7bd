"""Libraries that are not part of a plain install: which extra of the package brings each one, and
the line that a user sees where it is missing.
"""

import importlib
import importlib.util
from types import ModuleType

from data_pipeline.io.errors import InputError

# extra of setup.py → the modules of it that the code imports
EXTRAS = {
    "train": (
        "array_record",
        "grain",
        "jinja2",
        "matplotlib",
        "optax",
        "scipy",
        "tensorboardX",
        "tensorflow_datasets",
    ),
    "data": ("ahocorasick", "apache_beam", "httpx", "pyarrow"),
    "heic": ("pillow_heif",),
    "torch": ("torch",),
    "tpu-compile": ("libtpu",),
    "gpu-compile": ("jax_cuda13_plugin",),
}
# what installs an extra in a clone, at the versions of constraints.txt
_TARGETS = {
    "train": "setup",
    "data": "setup",
    "torch": "setup-torch",
    "tpu-compile": "setup-tpu",
    "gpu-compile": "setup-gpu",
}


def advice(extra: str) -> str:
    """Return the words that say how to install `extra`."""
    target = f" (in a clone: make {_TARGETS[extra]})" if extra in _TARGETS else ""
    return f"pip install 'cv3jax[{extra}]'{target}"


def load(module: str, what: str) -> ModuleType:
    """Return the imported `module`, one of `EXTRAS`; `what` needs it.

    Raises:
        InputError: it is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        if line := missing(e, what):
            raise InputError(line) from e
        raise


def check(what: str, *modules: str) -> None:
    """Refuse to begin `what`, which imports `modules` of `EXTRAS` only later. Imports nothing.

    Raises:
        InputError: one of them is not installed; the message names the extra.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise InputError(_line(module, what))


def missing(e: ModuleNotFoundError, what: str = "this") -> str | None:
    """Return the line for an import that failed because an extra is not installed.

    None where no extra has that module: then the code is wrong, not the installation.
    """
    top = (e.name or "").split(".")[0]
    return _line(top, what) if _extra(top) else None


def _extra(module: str) -> str | None:
    return next((extra for extra, modules in EXTRAS.items() if module in modules), None)


def _line(module: str, what: str) -> str:
    return f"{what} needs {module}, which is not installed: {advice(_extra(module))}"
