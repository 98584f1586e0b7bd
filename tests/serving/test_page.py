"""Test the server's page in Chromium: drawing, and what is done with a picture that is drawn.

tests/helpers/browser.py sees at the end of each test that the page broke no rule.
"""

import re
import threading

import browser
import http_server
import pytest
from playwright.sync_api import expect
from square_engine import SquareEngine

pytestmark = pytest.mark.browser
HTML = 'slow <img src=x onerror="document.title=1">'


@pytest.fixture
def server(tmp_path):
    with http_server.running(tmp_path / "data", SquareEngine(0.06)) as found:
        yield found


@pytest.fixture
def page(chrome, server):
    with browser.opened(chrome, server.address) as found:
        yield found


class OneByOne(SquareEngine):
    """Take a step of a slow prompt for each turn that it is given."""

    def __init__(self):
        super().__init__()
        self.turns = threading.Semaphore(0)

    def _wait_for_hurry(self, order_id: str) -> None:
        while order_id not in self._cancelled and not self._stopping:
            if self.turns.acquire(timeout=0.01):
                return


@pytest.fixture
def one_by_one(tmp_path):
    with http_server.running(tmp_path / "steps", OneByOne()) as found:
        yield found


def test_a_picture_from_its_prompt_to_the_gallery(chrome, one_by_one):
    with browser.opened(chrome, one_by_one.address) as page:
        follow_a_picture(page, one_by_one)


def follow_a_picture(page, server):
    page.get_by_label("Seed", exact=True).fill("7")
    browser.draw(page, HTML)
    tile, turns = page.locator(".tile"), server.engine.turns
    expect(page.locator(".status")).to_contain_text("Waiting: begins soon")
    turns.release()
    expect(page.locator(".status")).to_contain_text("Base picture, step 1 of 4")
    assert browser.width_of(page, ".tile button img") == 8  # what a step predicts
    expect(tile).to_have_attribute("data-stage", "base")
    expect(page.locator("#said")).to_have_text("Drawing the base picture")
    turns.release(4)
    expect(tile).to_have_attribute("data-stage", "relay")
    expect(page.locator("#said")).to_have_text(re.compile("relay to 128.×.128"))
    assert browser.width_of(page, ".tile button img") == 64  # the base's own picture
    turns.release()
    assert browser.width_of(page, ".tile .inset") == 64
    assert browser.width_of(page, ".tile button img") == 8
    turns.release()
    browser.drawn(page, 1)
    assert browser.width_of(page, ".big img") == 128
    page.get_by_role("button", name="Base", exact=True).click()
    assert browser.width_of(page, ".big img") == 64
    facts = page.locator(".facts").inner_text().split("\n")
    assert facts[facts.index("Seed") + 1] == "7"
    assert facts[facts.index("Base guidance") + 1] == "1.75"
    expect(page.locator(".about .words")).to_have_text(HTML)
    assert page.locator(".words *").count() == 0
    assert page.title() == "cv3jax"  # nothing in the prompt was executed
    with page.expect_download() as waiting:
        page.get_by_role("link", name="Download").click()
    assert waiting.value.suggested_filename.endswith("-7.png")
    (job,) = server.engine.drawn
    url = server.get(f"/v1/jobs/{job.partition('.')[0]}").json["pictures"][0]["url"]
    file = server.get(url.removeprefix(server.address)).body
    assert waiting.value.path().read_bytes() == file


def test_the_gallery_and_open_jobs_survive_a_reload(page, server):
    browser.draw(page, "first")
    browser.drawn(page, 1)
    browser.draw(page, "slow second")
    expect(page.locator("#gallery .thumb.waiting")).to_have_count(1)
    page.reload()
    expect(page.locator(".job .words")).to_have_text("slow second")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("slow second")
    server.engine.hurry.set()
    browser.drawn(page, 2)
    assert browser.width_of(page, "#gallery li:first-child img") == 128
    page.get_by_role("button", name="Remove", exact=True).click()
    page.get_by_role("button", name="Really remove?").click()
    browser.drawn(page, 1)
    expect(page.locator(".about .words")).to_have_text("first")


def test_again_variations_and_settings_of_a_picture(page, server):
    page.get_by_label("Guidance").first.fill("2.25")
    browser.draw(page, "a star")
    browser.drawn(page, 1)
    page.get_by_role("button", name="Again").click()
    browser.drawn(page, 2)
    first, second = server.engine.submitted
    assert (first.prompt, first.seed, first.base) == (second.prompt, second.seed, second.base)
    assert (second.base.guidance, second.sizes) == (2.25, first.sizes)
    page.get_by_role("button", name="Variations").click()
    browser.drawn(page, 6)
    more = server.engine.submitted[2:]
    assert len({order.seed for order in more} - {first.seed}) == 4
    assert {(order.prompt, order.base, order.relay) for order in more} == {
        (first.prompt, first.base, first.relay)
    }
    page.locator(".tile button").first.click()  # one of the four
    page.get_by_label("Guidance").first.fill("1")
    page.get_by_role("button", name="Use settings").click()
    expect(page.get_by_label("Guidance").first).to_have_value("2.25")
    expect(page.get_by_label("Seed", exact=True)).to_have_value(str(more[0].seed))


def test_a_picture_is_enlarged(page, server):
    page.get_by_text("64 × 64", exact=True).click()
    expect(page.get_by_role("group", name="Relay")).to_be_hidden()
    browser.draw(page, "a star")
    browser.drawn(page, 1)
    page.get_by_role("button", name="Enlarge to 128 × 128").click()
    browser.drawn(page, 2)
    assert browser.width_of(page, ".big img") == 128
    small, large = server.engine.submitted
    assert small.image is None
    assert large.image.shape == (64, 64, 3)
    assert large.seed == small.seed
    page.get_by_role("button", name="Before").click()
    assert browser.width_of(page, ".big img") == 64
    expect(page.get_by_text("This server enlarges pictures that fit into")).to_be_visible()


def test_a_picture_of_this_device_is_enlarged(page, server):
    page.get_by_text("Enlarge a picture of yours").click()

    def choose(data: bytes) -> None:
        file = {"name": "mine.png", "mimeType": "image/png", "buffer": data}
        page.get_by_label("Picture", exact=True).set_input_files(file)

    choose(b"no picture")
    expect(page.get_by_text("This browser cannot read the file as a picture.")).to_be_visible()
    choose(http_server.png(65, 70))
    expect(page.get_by_text("This server enlarges pictures that fit into")).to_be_visible()
    choose(http_server.png(60, 64))
    page.get_by_label("Prompt", exact=True).fill("my star")
    page.get_by_role("button", name="Enlarge to 120 × 128").click()
    browser.drawn(page, 1)
    assert browser.width_of(page, ".big img") == 120
    page.get_by_role("button", name="Again").click()
    browser.drawn(page, 2)
    first, second = server.engine.submitted
    assert first.image.shape == (64, 64, 3)
    assert (first.prompt, first.seed, first.relay) == (second.prompt, second.seed, second.relay)
    assert (first.image == second.image).all()


def test_two_settings_beside_each_other(page, server):
    page.get_by_label("Compare with other settings").check()
    page.locator("#b-base-guidance").fill("3")
    page.get_by_role("button", name="Draw both").click()
    expect(page.locator("#viewer")).to_have_attribute("data-kind", "empty")  # it has no prompt
    browser.draw(page, "a star")
    browser.drawn(page, 2)
    expect(page.locator("#viewer")).to_have_attribute("data-kind", "compare")
    assert page.locator(".sides img").count() == 2
    rows = page.locator("tr.differs")
    expect(rows).to_have_count(1)
    assert rows.inner_text().split() == ["Base", "guidance", "1.75", "3"]
    one, other = server.engine.submitted
    assert (one.seed, one.relay) == (other.seed, other.relay)
    assert (one.base.guidance, other.base.guidance) == (1.75, 3.0)
    # and two pictures of the gallery
    page.get_by_role("button", name="Open").first.click()
    page.get_by_role("button", name="Compare").click()
    expect(page.get_by_text("Choose the picture to compare with.")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.get_by_text("Choose the picture to compare with.")).to_be_hidden()
    page.get_by_role("button", name="Compare").click()
    page.locator("#gallery button[aria-current=false]").click()
    expect(page.locator("#viewer")).to_have_attribute("data-kind", "compare")
