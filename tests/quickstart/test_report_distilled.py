"""Test the report's section on distillation.

Its table has the figures, its sentences follow from them, and its pictures are the arrays.
"""

import base64
import copy
import io
import re

import numpy as np
import pytest
from PIL import Image
from report_page import HOSTILE, REPORT, Page

from cv3jax.quickstart.report import write_report
from cv3jax.quickstart.report_distilled import denoising, label, last, verdicts


def score(right: float) -> dict:
    """Return verdicts in which the first so many of a hundred pictures are right."""
    return {"all": right, "right": [int(i < 100 * right) for i in range(100)]}


def row(steps, guidance, right, se, distance, base, relay):
    seconds = {
        "text": 0.001,
        "base": base,
        "relay": relay,
        "vae": 0.003,
        "total": base + relay + 0.005,
    }
    return {
        **score(right),
        "se": se,
        "image_distance": distance,
        "steps": steps,
        "guidance": guidance,
        "batch": 25,
        "seconds": seconds,
    }


W, PLAIN = [1.75, 1.5], [1.0, 1.0]
ROWS = {
    "full": row([20, 10], W, 0.5, 0.0, 0.0, 0.04, 0.06),
    "undistilled_8_2": row([8, 2], W, 0.5, 0.01, 0.01, 0.016, 0.012),
    "undistilled_4_1": row([4, 1], W, 0.3, 0.02, 0.06, 0.008, 0.006),
    "distilled_8_2": row([8, 2], W, 0.48, 0.02, 0.02, 0.008, 0.006),
    "distilled_4_1": row([4, 1], W, 0.46, 0.02, 0.03, 0.004, 0.004),
    "undistilled_4_1_w1": row([4, 1], PLAIN, 0.45, 0.02, 0.07, 0.004, 0.003),
    "distilled_4_1_w1": row([4, 1], PLAIN, 0.2, 0.02, 0.05, 0.004, 0.003),
}
SINGLE = {
    "side": 128,
    "steps": 20,
    "guidance": 1.75,
    "batch": 25,
    "seconds": {"text": 0.001, "base": 0.12, "vae": 0.004, "total": 0.126},
}
QUALITY = {
    "base": {
        "full": 20,
        "rows": [
            {"steps": 8, "round": None, "distance": {"all": 0.05}},
            {"steps": 4, "round": None, "distance": {"all": 0.2}},
            {"steps": 8, "round": 1, "distance": {"all": 0.1}},
            {"steps": 4, "round": 2, "distance": {"all": 0.15}},
        ],
    },
    "relay": {
        "full": 10,
        "rows": [
            {"steps": 1, "round": None, "distance": {"all": 0.1}},
            {"steps": 1, "round": 1, "distance": {"all": 0.1}},
        ],
    },
}


@pytest.fixture(scope="module")
def images():
    return {
        name: np.random.default_rng(i).integers(0, 256, (2, 16, 16, 3), np.uint8)
        for i, name in enumerate(ROWS)
    }


@pytest.fixture(scope="module")
def source(images, tmp_path_factory):
    return write(tmp_path_factory.mktemp("report") / "r.html", ROWS, images)


def write(path, rows, images):
    report = {**REPORT, "distilled": rows, "single_stage": SINGLE}
    shown = {"prompts": [HOSTILE, "a small red star"], "rows": images, "quality": QUALITY}
    write_report(path, report, samples=[], curves={}, recon={}, next_steps=[], distilled=shown)
    return path.read_text(encoding="utf-8")


def test_figures_are_in_their_rows(source):
    table = source[source.index("<h2>Distilled") :].split("<table>")[1].split("</table>")[0]
    rows = re.findall(r'<tr><th scope="row"><b>(.*?)</b></th>\s*(.*?)</tr>', table, re.DOTALL)
    cells = {
        name.replace("\xa0", " "): re.findall(r'<td class="n">(.*?)</td>', rest)
        for name, rest in rows
    }
    assert list(cells) == [
        *(label(name, one).replace("\xa0", " ") for name, one in ROWS.items()),
        "One stage at 128², 20 steps, guided",
    ]
    assert cells["Full 20 + 10, guided"] == [
        "50.0",
        "100 %",
        "0.0000",
        "100.0",
        "1.0",
        "105.0",
        "1.0",
    ]
    assert cells["Distilled 4 + 1, conditioned on w"] == [
        "46.0",
        "92 %",
        "0.0300",
        "8.0",
        "12.5",
        "13.0",
        "8.1",
    ]
    assert cells["Undistilled 4 + 1, w = 1"] == [
        "45.0",
        "90 %",
        "0.0700",
        "7.0",
        "14.3",
        "12.0",
        "8.8",
    ]
    assert cells["One stage at 128², 20 steps, guided"] == [
        "–",
        "–",
        "–",
        "120.0",
        "0.8",
        "126.0",
        "0.8",
    ]


def test_the_summary_says_them(source):
    text = Page(source).text.replace("\xa0", " ")
    for words in (
        (
            "Distilled to 4 + 1 steps it keeps 92 % of the full sampler's score (20 + 10 steps,"
            " guided) and denoises 12.5 times as fast."
        ),
        "−4.0 points, with a standard error of 2.0.",
        "comes 8.1 times as fast",
        "take 5.0 of its 13.0 ms",
        "would take 126 ms for 20 guided steps, 9.7 times as long",
        "batches of 25",
    ):
        assert words in text


def test_verdicts_follow_from_the_figures():
    pays, does_not, unmeasured = (
        [text.replace("\xa0", " ") for text in texts] for texts in verdicts(ROWS, QUALITY).values()
    )
    as_long = (
        "8 + 2, beside undistilled 4 + 1 guided, which takes about as long: 48.0 % right,"
        " undistilled 30.0 %; pictures 0.0200"
    )
    assert [text for text in pays if text.startswith("8 + 2")] == [
        "8 + 2: 14.0 ms of denoising an image, undistilled 28.0 ms.",
        f"{as_long} from the full sampler's, undistilled 0.0600.",
    ]
    assert (
        "4 + 1, beside the undistilled sampler in as many steps: 46.0 % right, undistilled 30.0 %;"
        " pictures 0.0300" in "".join(pays)
    )
    assert (
        "without guidance, which takes about as long: pictures 0.0300 from the full sampler's,"
        " undistilled 0.0700." in "".join(pays)
    )
    assert (
        "The base alone in 4: its latents are 0.150 from the full sampler's, undistilled 0.200."
        in pays
    )
    assert does_not == [
        (
            "8 + 2, beside the undistilled sampler in as many steps: pictures 0.0200 from the full"
            " sampler's, undistilled 0.0100."
        ),
        "The base alone in 8: its latents are 0.100 from the full sampler's, undistilled 0.050.",
    ]
    # two pictures of 0.48 and 0.5, one of 0.46 and 0.45; and the relay, equally far
    assert len(unmeasured) == 3
    assert unmeasured[0].endswith("in as many steps: 48.0 % right, undistilled 50.0 %.")


def test_worse_is_said_to_be_worse():
    rows = copy.deepcopy(ROWS)
    rows["distilled_4_1"] |= {
        **score(0.1),
        "image_distance": 0.09,
        "seconds": ROWS["undistilled_8_2"]["seconds"],
    }
    pays, does_not, _ = verdicts(rows, {}).values()
    assert not any(text.startswith("4") for text in pays)
    assert next(text for text in does_not if text.startswith("4")).endswith(
        "28.0 ms of denoising an image, undistilled 14.0 ms."
    )
    assert denoising(rows["distilled_4_1"]) == pytest.approx(0.028)
    assert last(rows) == "distilled_4_1"


@pytest.mark.parametrize(("same", "differs"), [(40, True), (0, False)])
def test_scores_are_compared_caption_by_caption(same, differs):
    """46 and 40 are right, of the same captions or of others; the latter may be chance."""
    rows = copy.deepcopy(ROWS)
    rows["undistilled_4_1"] |= {
        "all": 0.4,
        "right": [int(46 - same <= i < 86 - same) for i in range(100)],
    }
    found = [text.replace("\xa0", " ") for text in verdicts(rows, {})["Where it pays"]]
    assert (
        any(
            "4 + 1, beside the undistilled sampler in as many steps: 46.0 % right" in text
            for text in found
        )
        == differs
    )


def test_the_picture_has_a_row_a_sampler(source, images):
    shown = [
        (attrs["alt"], attrs["src"].removeprefix("data:image/png;base64,"))
        for tag, attrs in Page(source).elements
        if tag == "img"
    ]
    assert len(shown) == 2 * len(ROWS)
    for (alt, data), (name, i) in zip(
        shown, [(name, i) for name in ROWS for i in range(2)], strict=True
    ):
        assert alt == f"{label(name, ROWS[name])}: {(HOSTILE, 'a small red star')[i]}"
        np.testing.assert_array_equal(
            np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), images[name][i]
        )


def test_nothing_is_loaded_and_captions_are_text(source):
    page = Page(source)
    assert page.text.count(HOSTILE) == 1
    assert not {"script", "link", "iframe", "object", "embed"} & {tag for tag, _ in page.elements}
    assert "http" not in source.replace("http-equiv", "")
    assert all(attrs.get("src", "data:").startswith("data:") for _, attrs in page.elements)


def test_quality_is_drawn_against_time_and_passes(source):
    page = Page(source)
    assert sum(tag == "svg" for tag, _ in page.elements) == len(QUALITY) + 1
    for words in (
        "Both stages: quality against time",
        "Base: quality against passes",
        "Relay: quality against passes",
        "distance from 20 steps, latents",
    ):
        assert words in page.text
    assert "#012345" not in source
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_run_whose_pictures_are_all_wrong_has_a_page(images, tmp_path):
    text = Page(
        write(
            tmp_path / "r.html",
            {name: {**one, **score(0.0), "se": 0.0} for name, one in ROWS.items()},
            images,
        )
    ).text
    assert "it keeps – of the full sampler's score" in text
