"""Test the page of a quickstart run.

Its pictures are the arrays, its text is escaped, its figures are complete, and it loads nothing.
"""

import base64
import io
import json
import re

import numpy as np
import pytest
from PIL import Image
from report_page import HOSTILE, REPORT, Page

from cv3jax.quickstart.report import COLUMNS, JUDGED, clock, write_report

SHAPES = {"base": 64, "upsampled": 128, "round_trip": 128, "relay": 128}


def line(step, **values):
    return {"step": step, "grad_norm": 1.0, "seconds": step / 10, **values}


@pytest.fixture(scope="module")
def samples():
    rng = np.random.default_rng(0)
    pictures = [
        {key: rng.integers(0, 256, (side, side, 3), np.uint8) for key, side in SHAPES.items()}
        for _ in range(2)
    ]
    return [{"prompt": HOSTILE, **pictures[0]}, {"prompt": "a small red star", **pictures[1]}]


@pytest.fixture(scope="module")
def recon():
    rng = np.random.default_rng(1)
    return {
        str(side): tuple(rng.integers(0, 256, (2, 3, side, side, 3), np.uint8))
        for side in (64, 128)
    }


@pytest.fixture(scope="module")
def source(samples, recon, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "made" / "report.html"
    steps = range(25, 1001, 25)
    curves = {
        "vae": [line(s, loss=1 / s, psnr=20 + s / 100) for s in steps],
        "base": [line(s, loss=2 / s) for s in steps],
        "relay": [line(25, loss=0.5), line(50, loss=-0.25)],  # no logarithm
        "distill": [line(25, loss=0.5)],  # one point is no curve
    }
    next_steps = [("Draw <more>", 'cv3jax sample --prompt "x" && ls')]
    write_report(path, REPORT, samples=samples, curves=curves, recon=recon, next_steps=next_steps)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    return path.read_text(encoding="utf-8")


def test_pictures_are_the_arrays(source, samples, recon):
    sources = [attrs["src"] for tag, attrs in Page(source).elements if tag == "img"]
    prefix = "data:image/png;base64,"
    shown = [
        np.asarray(Image.open(io.BytesIO(base64.b64decode(src.removeprefix(prefix)))))
        for src in sources
        if src.startswith(prefix)
    ]
    expected = [sample[key] for sample in samples for key, _, _ in COLUMNS]
    expected += [
        image
        for images, backs in recon.values()
        for pair in zip(images, backs, strict=True)
        for image in pair
    ]
    assert len(sources) == len(shown) == len(expected)
    for ours, theirs in zip(shown, expected, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_captions_are_text(source):
    page = Page(source)
    assert page.text.count(HOSTILE) == 1
    alternatives = [attrs["alt"] for tag, attrs in page.elements if tag == "img"]
    assert alternatives[: len(COLUMNS)] == [f"{name}: {HOSTILE}" for _, name, _ in COLUMNS]
    assert not any(
        tag == "script" or any(name.startswith("on") for name in attrs)
        for tag, attrs in page.elements
    )
    assert "Draw <more>" in page.text
    assert 'cv3jax sample --prompt "x" && ls' in page.text


def test_nothing_is_loaded(source):
    page = Page(source)
    assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & {
        tag for tag, _ in page.elements
    }
    for tag, attrs in page.elements:
        for name in (
            "src",
            "srcset",
            "href",
            "xlink:href",
            "data",
            "poster",
            "action",
            "background",
        ):
            assert attrs.get(name, "#").startswith(("data:", "#")), (tag, name, attrs[name][:80])
    # clips inside the plots
    assert all(target.startswith("#") for target in re.findall(r"url\(['\"]?([^'\")]*)", source))
    assert "@import" not in source
    assert "http" not in source.replace("http-equiv", "")
    policy = next(
        attrs["content"]
        for tag, attrs in page.elements
        if attrs.get("http-equiv") == "Content-Security-Policy"
    )
    assert "default-src 'none'" in policy


def test_figures_are_on_the_page(source):
    text = Page(source).text
    assert json.loads(text[text.rindex("as in report.json") + len("as in report.json") :]) == REPORT
    for seconds in REPORT["seconds"].values():
        assert clock(seconds) in text
    for shown in ("31.06 dB", "33.44 dB", "2026-01-02", "<2 cores>", "jax 0.10.2, flax 0.12.8"):
        assert shown in text


def test_the_judges_figures_are_in_their_rows(source):
    rows = [
        re.findall(r'<td class="n">(.*?)</td>', row)
        for row in re.findall(r'<tr><th scope="row"><b>.*?</tr>', source, re.DOTALL)
    ]
    detail = {"real": "100", "vae_final": "81", "control": "50", "relay": "75"}
    assert rows == [
        ["98", f"{100 * i / 8:.0f}", detail.get(key, "–")] for i, (key, _, _) in enumerate(JUDGED)
    ]
    text = Page(source).text
    assert "208 pictures" in text
    assert "would give 44" in text
    assert "lead is 3.1" in text


def test_curves(source):
    page = Page(source)
    titles = ["Autoencoder: loss", "Autoencoder: PSNR", "Base model: loss", "Relay model: loss"]
    assert re.findall(r"<h3>(.*?: (?:loss|PSNR))</h3>", source) == titles
    assert sum(tag == "svg" for tag, _ in page.elements) == 4
    assert page.text.count("optimizer steps") == 4
    assert page.text.count("loss (no unit), log scale") == 2
    assert page.text.count("loss (no unit)") == 3
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_run_without_samples_or_curves_has_a_page(tmp_path):
    write_report(tmp_path / "r.html", REPORT, samples=[], curves={}, recon={}, next_steps=[])
    assert "21 min 37 s" in (tmp_path / "r.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "–"),
        (0, "0.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 00 s"),
        (3599.6, "1 h 00 min"),
        (4210, "1 h 10 min"),
    ],
)
def test_clock(seconds, text):
    assert clock(seconds) == text
