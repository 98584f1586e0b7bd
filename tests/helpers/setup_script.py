"""Read setup.py without installing anything."""

import runpy
from pathlib import Path
from typing import Any

import pytest
import setuptools

ROOT = Path(__file__).parents[2]


def metadata() -> dict[str, Any]:
    """Return the arguments of `setuptools.setup`, and what else setup.py defines."""
    given = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(setuptools, "setup", lambda **arguments: given.update(arguments))
        names = runpy.run_path(str(ROOT / "setup.py"))
    return {**names, **given}
