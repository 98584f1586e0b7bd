"""Test that words from outside reach terminals, logs and files of figures as harmless text."""

import logging
import subprocess
import sys

import outside_settings
import outside_words
import pytest
from outside_words import NAME

from data_pipeline.io.terminal import MOST

PLACES = {place.__name__: place for place in outside_words.PLACES + outside_settings.PLACES}


@pytest.mark.parametrize("place", PLACES)
def test_words_from_outside_are_shown_as_text(place, tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(logging.root, "handlers", [logging.StreamHandler(sys.stderr)])
    at = tmp_path / NAME
    at.mkdir()
    PLACES[place](at)
    printed = capfd.readouterr()
    text = printed.out + printed.err
    assert text, "nothing was said"
    assert r"\x1b" in text or r"\u001b" in text, text[:500]
    bad = {c for c in text if c != "\n" and not c.isprintable()}
    assert not bad, (bad, [line for line in text.split("\n") if bad & {*line}][:5])
    lines = text.split("\n")
    assert "cv3jax: done" not in lines
    assert max(map(len, lines)) < 4 * MOST


def test_a_traceback_of_a_bug_is_visible():
    code = "from data_pipeline.io import library_words; library_words.make_visible()"
    code += "; raise ValueError('\\x1b[2J')"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ended.returncode == 1
    assert "\x1b" not in ended.stderr
    assert r"ValueError: \x1b[2J" in ended.stderr
