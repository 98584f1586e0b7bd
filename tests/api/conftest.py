"""Load the golden tests' smallest cascade once for the tests of the API."""

import golden_models
import pytest

import cv3jax


@pytest.fixture(scope="session")
def pipe():
    return cv3jax.Cascade.load(golden_models.converted("micro"))
