"""Test `cv3jax status --plot`: the curves of a run as one picture."""

import io
import json
import math

import numpy as np
import pytest
from PIL import Image

from cv3jax.commands import status
from cv3jax.reports import run_plot
from data_pipeline.io.errors import InputError

LINES = [
    {"step": step, "loss": 1 / step, "lr": 1e-4, "heldout/loss_t50": 0.5, "note": "text"}
    for step in range(1, 9)
]


def written(workdir, lines):
    workdir.mkdir(exist_ok=True)
    (workdir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return workdir


def test_curves_are_those_of_the_figures_that_are_numbers():
    lines = [*LINES, {"step": 9, "loss": math.nan, "lr/unet": 1e-5}]
    (losses,) = run_plot.curves(lines, run_plot.PANELS[0].figures).items()
    assert losses == ("loss", [(line["step"], line["loss"]) for line in LINES])
    assert run_plot.curves(lines, run_plot.PANELS[1].figures).keys() == {"heldout/loss_t50"}
    assert run_plot.curves(lines, run_plot.PANELS[4].figures).keys() == {"lr", "lr/unet"}


def test_long_curves_are_means_of_neighbours(monkeypatch):
    monkeypatch.setattr(run_plot, "MOST", 4)
    pairs = [(step, float(step)) for step in range(1, 9)]
    assert run_plot.thinned(pairs) == [(2, 1.5), (4, 3.5), (6, 5.5), (8, 7.5)]


def test_a_run_is_drawn_on_a_light_ground(tmp_path, capsys):
    workdir, out = written(tmp_path / "w", LINES), tmp_path / "plots" / "w.png"
    status.main([str(workdir), "--plot", str(out)])
    assert "step 8" in capsys.readouterr().out
    image = np.asarray(Image.open(io.BytesIO(out.read_bytes())).convert("RGB"))
    assert min(image.shape[:2]) > 300
    assert (image[0, 0] == 255).all()
    assert (image == 255).mean() > 0.5
    assert (image.min(-1) < 128).sum() > 500  # text and curves


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["w", "w", "--plot", "p.png"], "--plot is of one run"),
        (["w", "--plot", "p.jpg"], r"--plot p\.jpg: give a name that ends with \.png"),
        (["empty", "--plot", "p.png"], "no line has a figure to draw yet"),
    ],
)
def test_what_cannot_be_drawn_is_one_line(flags, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written(tmp_path / "w", LINES)
    written(tmp_path / "empty", [{"step": 1}])
    with pytest.raises(InputError, match=said):
        status.main(flags)
    assert not list(tmp_path.glob("p.*"))
