"""Test the server's page in Chromium: errors, keys, the keyboard, phones, colours, expansions."""

import browser
import http_server
import pytest
from expansion_server import MODEL, expansion_server
from PIL import Image
from playwright.sync_api import expect
from square_engine import SquareEngine

from cv3jax.commands import serve
from cv3jax.commands.expansion_flags import expansion_of
from cv3jax.serving.http.expansions import expander_of
from cv3jax.serving.http.keys import Keys
from cv3jax.web.gate import Access

pytestmark = pytest.mark.browser
KEY = "secret-of-ann-0001"


@pytest.fixture
def server(tmp_path):
    with http_server.running(tmp_path / "data", SquareEngine(0.02)) as found:
        yield found


def test_errors_are_said_in_words(chrome, server):
    with browser.opened(chrome, server.address) as page:
        error = page.locator("#error")
        browser.draw(page, "refuse this")
        expect(error).to_contain_text("The engine refuses this order; ask for another")
        browser.draw(page, "word " * 60)
        expect(error).to_contain_text("The prompt is too long")
        expect(page.get_by_label("Prompt", exact=True)).to_have_attribute("aria-invalid", "true")
        browser.draw(page, "fail at a step")
        expect(error).to_be_hidden()
        expect(page.locator(".job .error")).to_contain_text("The values are not finite")
        browser.draw(page, "slow one")
        expect(page.locator("#gallery .waiting")).to_have_count(1)
        server.engine.estimate = 305.0
        browser.draw(page, "another")
        expect(error).to_contain_text("The server is busy")
        expect(error.get_by_role("button")).to_have_text("Try again in 5 s")
        expect(error.get_by_role("button")).to_be_disabled()
        server.engine.estimate = None
        browser.draw(page, "another")
        expect(page.locator(".status")).to_contain_text("1 picture before it")
        page.keyboard.press("Escape")
        expect(page.locator(".status")).to_have_text("Cancelled")
        page.keyboard.press("Escape")
        expect(page.locator("#gallery .waiting")).to_have_count(0)
        assert server.engine.drawn == []


def test_the_server_goes_and_comes_back(chrome, server):
    with browser.opened(chrome, server.address) as page:
        browser.draw(page, "slow star")
        expect(page.locator("#gallery .waiting")).to_have_count(1)
        page.context.set_offline(True)
        expect(page.locator(".status")).to_have_text("The connection is lost; trying again")
        browser.draw(page, "another")
        expect(page.locator("#error")).to_contain_text("The server cannot be reached")
        page.context.set_offline(False)
        server.engine.hurry.set()
        browser.drawn(page, 1)


def test_a_server_with_keys_asks_for_one(chrome, tmp_path):
    access = Access(keys=Keys([("ann", KEY, None)]))
    with (
        http_server.running(tmp_path / "data", access=access) as server,
        browser.opened(chrome, server.address) as page,
    ):
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Key", exact=True).fill("not-the-key")
        page.keyboard.press("Enter")
        expect(dialog).to_contain_text("The server does not know this key")
        dialog.get_by_label("Key", exact=True).fill(KEY)
        dialog.get_by_role("button", name="Use the key").click()
        expect(page.locator("#health")).to_have_text("ready")
        browser.draw(page, "a star")
        browser.drawn(page, 1)
        page.reload()
        expect(page.locator("#health")).to_have_text("ready")
        assert page.evaluate("localStorage.getItem('key')") is None  # it was not to be kept


def test_a_withheld_picture_says_so(chrome, tmp_path):
    class Blind:
        def allows(self, image: Image.Image) -> bool:
            return False

    with (
        http_server.running(tmp_path / "data", safety=Blind()) as server,
        browser.opened(chrome, server.address) as page,
    ):
        browser.draw(page, "a star")
        expect(page.get_by_text("Withheld by the server's safety check")).to_be_visible()
        expect(page.locator(".status")).to_have_text("Done")
        browser.drawn(page, 0)


def test_all_by_the_keyboard(chrome, server):
    with browser.opened(chrome, server.address) as page:
        expect(page.locator("#health")).to_have_text("ready")
        page.keyboard.press("Tab")
        page.keyboard.press("Enter")  # the link to the prompt
        page.keyboard.type("one")
        page.keyboard.press("Control+Enter")
        browser.drawn(page, 1)
        page.keyboard.type(" two")
        page.keyboard.press("Control+Enter")
        browser.drawn(page, 2)
        while not page.evaluate("document.activeElement.matches('.thumb')"):
            page.keyboard.press("Tab")
            shown = page.evaluate("getComputedStyle(document.activeElement).outline")
            chip = page.evaluate("document.activeElement.matches('.chip *')")  # its label has it
            assert chip or "solid 2px" in shown
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Enter")
        expect(page.locator(".about .words")).to_have_text("one")
        page.keyboard.press("Home")
        page.keyboard.press("Enter")
        expect(page.locator(".about .words")).to_have_text("one two")
        page.locator("#viewer").focus()
        page.keyboard.press("ArrowRight")
        expect(page.locator(".about .words")).to_have_text("one")


def test_a_phone_in_the_dark(chrome, server):
    phone = {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"}
    with browser.opened(chrome, server.address, **phone) as page:

        def width() -> int:
            return page.evaluate("document.documentElement.scrollWidth")

        def ground() -> int:
            colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
            return int(colour.strip("rgb()").split(",")[0])

        expect(page.locator("#health")).to_have_text("ready")
        assert (width(), ground() < 40) == (390, True)
        browser.draw(page, f"slow {'w' * 40}")
        expect(page.locator("#gallery .waiting")).to_have_count(1)
        assert width() == 390
        server.engine.hurry.set()
        browser.drawn(page, 1)
        assert width() == 390
        page.get_by_text("Settings", exact=True).click()
        page.get_by_label("Compare with other settings").check()
        assert width() == 390
        page.get_by_role("button", name="Draw both").click()
        browser.drawn(page, 3)
        assert width() == 390
        page.get_by_role("button", name="Colours: auto").click()
        page.reload()
        expect(page.get_by_role("button", name="Colours: light")).to_be_visible()
        assert ground() > 200


def expander(url: str):
    argv = ["--checkpoint", "scenes", "--expand", url, "--expand-model", MODEL]
    expanding = expansion_of(serve.parser().parse_args(argv))
    return expander_of(expanding, http_server.model().tokenize)


def test_an_expansion_is_shown_and_edited(chrome, tmp_path):
    with (
        expansion_server() as model,
        http_server.running(tmp_path / "data", expander=expander(model.url)) as server,
        browser.opened(chrome, server.address) as page,
    ):
        page.get_by_label("Prompt", exact=True).fill("a star")
        page.get_by_role("button", name="Expand").click()
        field = page.get_by_label("Expanded prompt, which is drawn")
        expect(field).to_have_value(
            "A detailed picture of a star, seen from the front in soft light."
        )
        expect(page.locator("#expanded-note")).to_contain_text("by writer")
        field.fill("A golden star.")
        page.keyboard.press("Control+Enter")
        browser.drawn(page, 1)
        assert [order.prompt for order in server.engine.submitted] == ["A golden star."]
        expect(page.locator(".about .words")).to_have_text("a star")
        page.get_by_text("Expanded prompt", exact=True).click()
        expect(page.locator(".about details p")).to_have_text("A golden star.")
        page.get_by_role("button", name="Draw the prompt as it is").click()
        page.keyboard.press("Control+Enter")
        browser.drawn(page, 2)
        assert server.engine.submitted[1].prompt == "a star"
