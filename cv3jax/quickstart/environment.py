"""The hardware and versions that a program ran on."""

import datetime
import importlib.metadata
import os
import platform

import jax


def environment() -> dict:
    """Return hardware, versions and date, for the report."""
    packages = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "numpy")
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "python": platform.python_version(),
        "machine": (
            f"{platform.machine()}, {os.cpu_count()} cores, {jax.devices()[0].device_kind} ×"
            f" {jax.device_count()}"
        ),
        **{name: importlib.metadata.version(name) for name in packages},
    }
