"""Test the page in Chromium: two raters, by keyboard and by touch, with kill -9 in between."""

import browser
import judged_pictures
import pytest
from judged_pictures import Judged
from playwright.sync_api import expect

from cv3jax.evaluation.people.analysis import analyse
from cv3jax.evaluation.people.study import TRIAL
from cv3jax.evaluation.people.votes import FIRST, SECOND, TIE, Votes

pytestmark = pytest.mark.browser
PHONE = {"viewport": {"width": 390, "height": 800}, "has_touch": True, "is_mobile": True}
READY = "fieldset.asked:not(:disabled)"
# which picture has the colour of the first model, by what the page shows; "" until both are there
FIRST_MODEL = """() => {
  const canvas = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  const red = [...document.querySelectorAll("#pictures img")].map((image) => {
    canvas.drawImage(image, 0, 0, 32, 32);
    const [r, g] = canvas.getImageData(5, 5, 1, 1).data;
    return r > g;
  });
  return red[0] ? "1" : "2";
}"""


# whether all of each picture is within its frame
WHOLE = """() => [...document.querySelectorAll("#pictures img")].every((image) => {
  const [inner, outer] = [image, image.parentElement].map((e) => e.getBoundingClientRect());
  const fit = getComputedStyle(image).objectFit === "contain";
  return fit && inner.bottom <= outer.bottom && inner.right <= outer.right && inner.height > 100;
})"""


def begin(page, name):
    page.get_by_label("Your name").fill(name)
    page.keyboard.press("Enter")


def by_keys(page, place, alignment=None):
    """Judge a pair: the first model shows more of the text, and both look alike."""
    page.wait_for_selector(READY)
    assert page.evaluate(WHOLE)
    page.keyboard.press(alignment or page.evaluate(FIRST_MODEL))
    page.keyboard.press("0")
    page.keyboard.press("Enter")
    expect(page.locator("#count")).to_contain_text(f"{place + 1} of")


def by_touch(page, place):
    """Judge a pair: the first model is better in both, or whatever is above."""
    page.wait_for_selector(READY)
    assert page.evaluate(WHOLE)
    label = page.evaluate(FIRST_MODEL)
    for aspect in ("alignment", "quality"):
        page.locator(f"fieldset[data-aspect={aspect}]").get_by_text(label, exact=True).tap()
    page.get_by_role("button", name="Next").tap()
    expect(page.locator("#count")).to_contain_text(f"{place + 1} of")


def judge_all(chrome, tmp_path, count, killed_at):
    """Have two raters give `count` votes each, and kill the server in between."""
    flags = judged_pictures.drawn(tmp_path, count)
    votes, options = tmp_path / "votes.sqlite", ("--limit", str(count), "--controls", "0")
    server = Judged(flags, votes, *options)
    try:
        with (
            browser.opened(chrome, server.address) as wide,
            browser.opened(chrome, server.address, **PHONE) as phone,
        ):
            for page in (wide, phone):
                page.set_default_timeout(120_000)  # a machine may have other work
            begin(wide, "ann")
            begin(phone, "ben")
            for place in range(count):
                by_keys(wide, place)
                if place == killed_at:  # the other rater's page is open, and waits
                    server.kill()
                    server = Judged(flags, votes, *options, "--port", server.port)
                by_touch(phone, place)
            for page in (wide, phone):
                expect(page.get_by_text("That was the last pair")).to_be_visible()
    finally:
        server.kill()
    kept = Votes(votes)
    found, study = kept.all(), kept.study
    kept.close()
    return study, found


def check(study, found, count):
    """See that all votes are there and name the models that the raters chose."""
    assert [(vote.rater, vote.place) for vote in found] == [
        (rater, place) for rater in ("ann", "ben") for place in range(count)
    ]
    figures = analyse(study, found, exclude_above=None)
    alignment, quality = (figures["aspects"][name]["pairs"][0] for name in ("alignment", "quality"))
    assert (alignment["wins"], alignment["rate"]) == (2 * count, 1.0)
    assert (quality["wins"], quality["ties"]) == (count, count)
    assert figures["aspects"]["alignment"]["agreement"]["units"] == count
    sides = [vote.shown.left for vote in found]
    assert 0 < sum(sides) < 2 * count
    assert all(vote.seconds > 0 for vote in found)


def test_two_raters_and_a_server_that_is_killed(chrome, tmp_path):
    check(*judge_all(chrome, tmp_path, 8, killed_at=4), 8)


@pytest.mark.slow
def test_two_hundred_votes_of_two_raters(chrome, tmp_path):
    check(*judge_all(chrome, tmp_path, 100, killed_at=50), 100)


def test_a_rater_goes_back_reloads_and_looks_closer(chrome, tmp_path):
    flags = judged_pictures.drawn(tmp_path, 12)
    server = Judged(flags, tmp_path / "votes.sqlite", "--controls", "0.3")
    try:
        with browser.opened(chrome, server.address) as page:
            begin(page, "<b>ann</b>")
            by_keys(page, 0, "1")
            expect(page.locator("#who")).to_have_text("<b>ann</b>")
            page.reload()  # its address has the rater in it
            page.wait_for_selector(READY)
            expect(page.locator("#count")).to_contain_text("1 of 17")
            expect(page.locator("#next")).to_be_disabled()
            page.keyboard.press("Enter")  # without answers nothing is sent
            expect(page.locator("#count")).to_contain_text("1 of")
            page.get_by_role("button", name="Picture 1 at full size").click()
            expect(page.locator("#large")).to_be_visible()
            page.keyboard.press("2")  # judges nothing meanwhile
            page.keyboard.press("Escape")
            assert page.locator("input:checked").count() == 0
            page.keyboard.press("Backspace")
            expect(page.locator("input[name=alignment]:checked")).to_have_value("first")
            page.wait_for_selector("fieldset:not(:disabled)")
            expect(page.locator("#next")).to_be_enabled()
            page.locator("fieldset[data-aspect=quality]").get_by_text("2", exact=True).click()
            page.keyboard.press("Enter")
            page.wait_for_selector(READY)
            expect(page.locator("#count")).to_contain_text("1 of")
            for place in range(1, 17):
                by_keys(page, place, "0")
            expect(page.get_by_text("That was the last pair")).to_be_visible()
    finally:
        server.kill()
    kept = Votes(tmp_path / "votes.sqlite")
    found = kept.all()
    kept.close()
    assert (found[0].alignment, found[0].quality, found[0].changes) == (FIRST, SECOND, 1)
    assert {vote.alignment for vote in found[1:]} == {TIE}
    assert sum(vote.shown.kind != TRIAL for vote in found) == 5
