"""Train, distil and sample CogView3 (arXiv 2403.05121) in JAX: text to image by relay diffusion.

The public API is what `__all__` names; everything else is private and may change in any version.
`Cascade.load` loads a cascade, and calling it draws. Importing `cv3jax` imports no JAX.
"""

import importlib

__version__ = "0.1.0"
__all__ = ["CancelledError", "Cascade", "Functions", "Pictures", "Step", "Upscaled", "__version__"]
HOMES = {  # the module of each name
    "CancelledError": "cv3jax.api.steps",
    "Cascade": "cv3jax.api.cascade",
    "Functions": "cv3jax.api.functions",
    "Pictures": "cv3jax.api.result",
    "Step": "cv3jax.api.steps",
    "Upscaled": "cv3jax.cascade.upscaling",
}


def __getattr__(name: str) -> object:
    """Import a name of the API when it is first used."""
    if name not in HOMES:
        raise AttributeError(f"module 'cv3jax' has no attribute {name!r}")
    # before JAX is imported, so that the settings hold; each of the modules imports it
    importlib.import_module("cv3jax.api.environment").prepare()
    return getattr(importlib.import_module(HOMES[name]), name)


def __dir__() -> list[str]:
    """Return the names of the API."""
    return sorted(__all__)
