"""Provide the command that samples a file of prompts, with a painter in place of a cascade."""

import json

import golden_models
import pytest
from painter import LINES, Painter, contents

from cv3jax.commands import sample
from cv3jax.sampling import jobs as sampling_jobs
from cv3jax.sampling import resumable


@pytest.fixture
def paint(tmp_path, monkeypatch, capsys):
    """Return a function of (out, *flags, painter) that runs the command with a painter.

    It samples eleven prompts in batches of two, and returns the figures.
    """
    (tmp_path / "p.txt").write_text("\n".join(LINES))
    saved = []
    save = sampling_jobs.save_png
    monkeypatch.setattr(
        sampling_jobs, "save_png", lambda path, *rest: saved.append(path.name) or save(path, *rest)
    )
    monkeypatch.setattr(resumable, "choose_mesh", lambda text, count: None)

    def run(out: str, *flags: str, painter: Painter | None = None, prompts: str = "p.txt") -> dict:
        monkeypatch.setattr(
            resumable, "load", lambda source, parts, mesh, attention: painter or Painter()
        )
        checkpoint = str(golden_models.converted("micro"))
        capsys.readouterr()
        saved.clear()
        sample.main(
            [
                "--checkpoint",
                checkpoint,
                "--prompts",
                str(tmp_path / prompts),
                "--out",
                str(tmp_path / out),
                "--size",
                "32",
                "--batch",
                "2",
                *flags,
            ]
        )
        return json.loads(capsys.readouterr().out)

    run.saved = saved
    return run


@pytest.fixture
def whole(paint, tmp_path) -> dict[str, bytes]:
    """Return the files of a run that was not interrupted."""
    figures = paint("whole", "--seed", "7")
    assert figures == {
        "pictures": 11,
        "part": [0, 1],
        "made": 11,
        "left": 0,
        "index": str(tmp_path / "whole" / "index.jsonl"),
    }
    return contents(tmp_path / "whole")
