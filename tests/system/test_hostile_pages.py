"""Test in a browser that pages of reports show text from outside and run none of it."""

import json

import numpy as np
import pytest
import scored
from build_inputs import build, jpeg
from image_shards import tar
from PIL import Image

from cv3jax.api.result import Pictures
from cv3jax.evaluation import run
from cv3jax.evaluation.prompt_row import PromptRow
from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.quickstart.report import write_report

pytestmark = pytest.mark.browser
TEXTS = (
    "<script>window.broke = 1</script>",
    '"><img src=x onerror="window.broke = 1">',
    "</title></style></textarea><svg onload='window.broke = 1'>",
    "<a href='javascript:window.broke = 1'>x</a><iframe src='http://example.invalid/'></iframe>",
    "{{ 7 * 7 }} {% raw %} ${7 * 7} =cmd|' /C calc'!A1",
)


@pytest.fixture
def shown(chrome):
    """Return a function that opens a page and returns its text; it must run and load nothing."""

    def show(path) -> str:
        context = chrome.new_context()
        page, asked, dialogs = context.new_page(), [], []
        page.on("request", lambda request: asked.append(request.url))
        page.on("dialog", lambda dialog: dialogs.append(dialog.message))
        page.goto(path.as_uri())
        for image in page.locator("img, a, summary").all()[:20]:
            image.dispatch_event("click")
        assert page.evaluate("window.broke") is None
        assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()]
        assert dialogs == []
        assert page.locator("script, iframe, object, embed, svg[onload]").count() == 0
        text = page.locator("body").inner_text() + " ".join(
            image.get_attribute("alt") or "" for image in page.locator("img").all()
        )
        context.close()
        return text

    return show


def test_the_report_of_a_build(shown, tmp_path):
    members = []
    for i, text in enumerate(TEXTS):
        key = f"{i}{text.replace('/', '').replace('.', '')}"
        fields = {"url": f"http://{i}/{text}", "punsafe": text, "LICENSE": text}
        members += [
            (f"{key}.jpg", jpeg(i)),
            (f"{key}.txt", text.encode()),
            (f"{key}.json", json.dumps(fields).encode()),
        ]
    tar(tmp_path / "in.tar", members)
    flags = ("--max-unsafe", "0.5", "--allow-unreadable-fields", "--max-bad-fraction", "1")
    _, report = build(tmp_path / "D", "--input", tmp_path / "in.tar", *flags)
    assert report["unreadable"]["unsafe"]["items"] == len(TEXTS)
    text = shown(tmp_path / "D" / "report.html")
    assert "<script>window" in text
    assert "onerror=" in text


def test_the_report_of_quickstart(shown, tmp_path):
    picture = np.zeros((8, 8, 3), np.uint8)
    keys = ("base", "upsampled", "round_trip", "relay")
    samples = [{"prompt": text, **dict.fromkeys(keys, picture)} for text in TEXTS]
    report = {
        "seconds": dict.fromkeys(TEXTS, 1.0) | {"total": 5.0},
        "vae_psnr": {},
        "environment": {text: {text: text} for text in TEXTS},
    }
    write_report(
        tmp_path / "report.html",
        report,
        samples=samples,
        curves={},
        recon={},
        next_steps=[(text, text) for text in TEXTS],
    )
    text = shown(tmp_path / "report.html")
    assert all(each in text for each in TEXTS)


def test_the_report_of_an_evaluation(shown, tmp_path, monkeypatch):
    monkeypatch.setattr(run, "open_metric", scored.Metrics().open)
    rows = [PromptRow(text, text, text) for text in TEXTS]
    scored.pictures(tmp_path / "p", len(TEXTS))
    request = scored.request(tmp_path / "o", prompts=PromptSet(TEXTS[0], tuple(rows)))
    run.evaluate(request, tmp_path / "p")
    text = shown(tmp_path / "o" / "report.html")
    assert all(each in text for each in TEXTS)


def test_pictures_in_a_notebook(shown, tmp_path):
    made = Pictures.__new__(Pictures)
    images = [Image.new("RGB", (8, 8))] * len(TEXTS)
    for name, value in {
        "images": images,
        "prompts": list(TEXTS),
        "seeds": list(range(len(TEXTS))),
        "seconds": dict.fromkeys(TEXTS, 1.0),
    }.items():
        object.__setattr__(made, name, value)
    (tmp_path / "page.html").write_text(made._repr_html_())
    text = shown(tmp_path / "page.html")
    assert all(each in text for each in TEXTS)
