"""Test commands whose stdout cannot be written: its reader has gone, or the disk is full."""

import os
import subprocess
import sys

import pytest
import subprocesses

# (arguments, PYTHONUNBUFFERED); argparse itself drops what an unbuffered stdout does not take
SAID = [
    (("cv3jax", "--version"), ""),
    (("cv3jax", "--version"), "1"),
    (("cv3jax", "train", "--help"), ""),
    (("cv3jax", "config", "scenes_vae"), ""),
    (("cv3jax", "config", "scenes_vae"), "1"),
    (("data_pipeline.cli", "--help"), ""),
    (("data_pipeline.cli", "--help"), "1"),
]


def run(arguments: tuple[str, ...], unbuffered: str, stdout: int) -> tuple[int, str]:
    """Return a command's exit code and stderr."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=subprocesses.environment(PYTHONUNBUFFERED=unbuffered),
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
    )
    return done.returncode, done.stderr


@pytest.mark.parametrize(("arguments", "unbuffered"), SAID)
def test_a_reader_that_has_gone_ends_a_command_silently(arguments, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        assert run(arguments, unbuffered, writer) == (1, "")
    finally:
        os.close(writer)


@pytest.mark.parametrize(("arguments", "unbuffered"), SAID)
def test_a_full_disk_below_stdout_is_one_line(arguments, unbuffered):
    with open("/dev/full", "w") as full:
        code, err = run(arguments, unbuffered, full.fileno())
    assert (code, err) == (1, "cv3jax: No space left on device\n")


def test_bad_input_keeps_its_line_and_code_where_the_reader_has_gone():
    reader, writer = os.pipe()
    os.close(reader)
    try:
        code, err = run(("data_pipeline.cli", "zzz"), "", writer)
    finally:
        os.close(writer)
    assert code == 2
    assert err.startswith("cv3jax: unknown command data 'zzz'")
