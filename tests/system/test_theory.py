"""Test docs/theory/mathematics.md: every block of Python prints the text block after it."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "theory" / "mathematics.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```\n\n```text\n(.*?)```", PAGE, re.DOTALL)


def test_every_block_is_checked():
    assert len(BLOCKS) == PAGE.count("```python") == PAGE.count("```text") > 0


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_a_block_prints_what_the_page_shows(number):
    code, shown = BLOCKS[number]
    # a process of its own: one of the blocks turns float64 on
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == shown
