"""Return how a run with a fault ends, and compare what it writes."""

import jax
import pytest
from states import assert_equal, named_leaves, untimed

from cv3jax import cli
from cv3jax.training.metrics import read_lines


def curve(workdir) -> list[dict]:
    return untimed(read_lines(workdir / "metrics.jsonl"))


def same(ours, theirs) -> None:
    """Check that every array of two train states is equal bit for bit."""
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    assert_equal(named_leaves(ours), named_leaves(theirs))


def ended(command, capsys) -> tuple[int, list[str]]:
    """Return (exit code, stderr without the progress bar) of `command()` under the dispatcher."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as e:
        cli.run_command(lambda argv: command())
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    return e.value.code, [line for line in lines if line and not line.startswith("toy: ")]
