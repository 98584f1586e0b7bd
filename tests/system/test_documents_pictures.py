"""Test the pictures of the documents.

They exist, are described and small, and a script draws them again from the results.
"""

import importlib
import re

import jax.numpy as jnp
import numpy as np
import pytest
from documents import DOCUMENTS, ROOT, read, result
from PIL import Image

from cv3jax.diffusion import sampler
from cv3jax.diffusion.schedule import base_grid, relay_grid

PICTURES = ROOT / "docs" / "pictures"
SHOWN = [
    (document, alt, (ROOT / document).parent / target)
    for document in DOCUMENTS
    for alt, target in re.findall(r"!\[([^\]]*)\]\(([^)\s]+)\)", read(document))
    if "://" not in target
]


@pytest.fixture
def scripts(monkeypatch):
    """Return a function that imports a script of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def test_every_picture_of_a_document_is_there_and_described():
    assert len(SHOWN) > 8
    assert [(d, path.name) for d, _, path in SHOWN if not path.is_file()] == []
    assert [(d, path.name) for d, alt, path in SHOWN if len(alt) < 7] == []


def test_every_kept_picture_is_shown_named_by_the_script_and_small(scripts):
    script = scripts("pictures")
    kept = sorted(path.name for path in PICTURES.iterdir())
    shown = {path.resolve() for _, _, path in SHOWN}
    assert [name for name in kept if (PICTURES / name).resolve() not in shown] == []
    assert set(kept) <= {*script.BY_HAND, *(f"{name}.png" for name in script.PICTURES)}
    for name in kept:
        assert (PICTURES / name).stat().st_size < script.LARGEST
    # what a document says of how its picture is made is a name that the script knows
    said = re.findall(r"benchmarks/pictures\.py ([a-z_ \n]+)`", "\n".join(map(read, DOCUMENTS)))
    assert {name for names in said for name in names.split()} <= set(script.PICTURES)
    drawn = {path.stem for _, _, path in SHOWN if path.parent.name == "pictures"} - {"cascade"}
    assert {name for names in said for name in names.split()} == drawn


def test_the_bars_end_at_what_a_run_holds_and_at_the_limit(scripts):
    made = result("compile_time")["results"]
    figure = scripts("pictures").compile_memory()
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    ends = []
    chips = list(dict.fromkeys(step["topology"] for step in made.values()))  # a plot each
    for step in sorted(made.values(), key=lambda step: chips.index(step["topology"])):
        other = made[
            f"{step['config']} {'encode' if step['step'] == 'train' else 'train'}"
            f" {step['topology']}"
        ]
        ends.append(step["peak_bytes_per_chip"] + other["argument_bytes_per_chip"])
    assert texts == [f"{end / 1e9:.1f}" for end in ends]
    assert [axes.lines[-1].get_xdata()[0] for axes in figure.axes] == [16, 95, 72]
    for axes in figure.axes:
        assert all(
            bar.get_x() + bar.get_width() < axes.lines[-1].get_xdata()[0] for bar in axes.patches
        )


def test_the_maps_frame_the_nearest_teacher_of_each_row(scripts):
    found = result("guidance")["replaced"]
    figure = scripts("pictures").guidance()
    for axes, rows in zip(figure.axes, found.values(), strict=False):
        np.testing.assert_array_equal(np.asarray(axes.images[0].get_array()), rows)
        framed = [round(patch.get_x() + 0.47) for patch in axes.patches]
        assert framed == [int(np.argmin(row)) for row in rows]


def test_a_picture_is_written_again_as_it_is_kept(scripts, tmp_path):
    """Only the size is compared: the colours of text depend on the machine's fonts."""
    path = scripts("pictures").draw("distillation", tmp_path / "new")
    with Image.open(path) as ours, Image.open(PICTURES / "distillation.png") as theirs:
        assert ours.size == theirs.size
        assert ours.size[0] >= 600


@pytest.mark.parametrize("stage", ["base", "relay"])
def test_predictions_are_read_off_a_trajectory(scripts, stage):
    rng = np.random.default_rng(0)
    noise, low, x0 = rng.normal(size=(3, 1, 4, 4, 2)).astype(np.float32)
    relay = stage == "relay"
    grid = relay_grid(10, 40) if relay else base_grid(20)

    def predict(x, t):  # another one at every point
        return jnp.asarray(x0) * (1 + t[0] / 1000)

    start = sampler.start(grid, noise, low if relay else None)
    _, after = sampler.sample(predict, grid, start, low if relay else None)
    x = np.concatenate([start[None], after]).astype(np.float64)[:, 0]
    found = scripts("pictures_sampled").predictions(grid, x, low[0] if relay else 0.0)
    expected = [x0[0] * (1 + int(t) / 1000) for t in grid.t[:-1]]
    np.testing.assert_allclose(found, expected, atol=2e-4)
