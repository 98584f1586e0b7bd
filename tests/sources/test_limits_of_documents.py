"""Test that the page of limits has the values of the code."""

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "limits.md"
ROW = re.compile(
    r"^\| (.+?) \| ([\d,]+)( (?:[KMG]iB|Mi))? \| .*\| `([\w.]+)\.(\w+)` \|$", re.MULTILINE
)
UNITS = {"": 1, "KiB": 2**10, "MiB": 2**20, "Mi": 2**20, "GiB": 2**30}
ROWS = ROW.findall(PAGE.read_text())


def test_every_row_is_read():
    limits, _, _ = PAGE.read_text().partition("| fuzzer in ")
    lines = [line for line in limits.splitlines() if line.startswith("| ")]
    assert len(ROWS) == len(lines) - 3  # the heads
    assert len(ROWS) > 25


@pytest.mark.parametrize(("name", "number", "unit", "module", "constant"), ROWS)
def test_a_limit_is_that_of_the_code(name, number, unit, module, constant):
    value = getattr(importlib.import_module(f"data_pipeline.{module}"), constant)
    assert value == int(number.replace(",", "")) * UNITS[unit.strip()], name
