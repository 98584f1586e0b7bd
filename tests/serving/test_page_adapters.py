"""Test the page's list of adapters in Chromium: what is asked for, shown and drawn again."""

import dataclasses

import browser
import http_server
import pytest
from playwright.sync_api import expect
from square_engine import SquareEngine

pytestmark = pytest.mark.browser
NAME = 'odd <b>"name"</b> of an adapter that is a good deal longer than the form is wide'
LORAS = {
    "teal": {"stage": "base", "sha256": "1" * 64, "file": "teal.safetensors"},
    "sharp": {"stage": "relay", "sha256": "2" * 64, "file": "sharp"},
    NAME: {"stage": "base", "sha256": "3" * 64, "file": "c.safetensors"},
}


@pytest.fixture
def server(tmp_path):
    model = dataclasses.replace(http_server.model(), loras=LORAS)
    with http_server.running(tmp_path / "data", SquareEngine(0.01), model=model) as found:
        yield found


@pytest.fixture
def page(chrome, server):
    with browser.opened(chrome, server.address) as found:
        expect(found.locator("#draw")).to_be_enabled()
        yield found


def test_a_picture_is_drawn_with_the_adapters_that_are_ticked(page, server):
    own = page.locator("#a-adapters")
    expect(own.locator(".adapter")).to_have_count(3)
    weight = page.get_by_label("Weight of teal")
    expect(weight.first).to_be_hidden()
    own.get_by_label("teal", exact=True).check()
    weight.first.fill("0.5")
    own.get_by_label("sharp", exact=True).check()
    browser.draw(page, "a star")
    browser.drawn(page, 1)
    (order,) = server.engine.submitted
    assert order.loras == (("teal", 0.5), ("sharp", 1.0))
    facts = page.locator(".facts").inner_text().split("\n")
    assert facts[facts.index("teal") + 1] == "× 0.5"
    own.get_by_label("teal", exact=True).uncheck()
    page.get_by_role("button", name="Again").click()
    browser.drawn(page, 2)
    assert server.engine.submitted[1].loras == order.loras
    page.get_by_role("button", name="Use settings").click()
    expect(own.get_by_label("teal", exact=True)).to_be_checked()
    assert weight.first.input_value() == "0.5"


def test_two_sides_have_their_own_adapters_and_a_visit_remembers_them(page, server):
    page.get_by_label("Compare with other settings").check()
    page.locator("#b-adapters").get_by_label("teal", exact=True).check()
    browser.draw(page, "a star")
    browser.drawn(page, 2)
    assert sorted(order.loras for order in server.engine.submitted) == [(), (("teal", 1.0),)]
    page.reload()
    expect(page.locator("#b-adapters").get_by_label("teal", exact=True)).to_be_checked()


def test_adapters_of_the_relay_are_offered_where_it_draws(page, server):
    relay = page.locator("#a-adapters .adapter[data-stage=relay]")
    expect(relay).to_be_visible()
    relay.get_by_label("sharp", exact=True).check()
    page.locator("label[class=chip]", has_text="64 × 64").click()
    expect(relay).to_be_hidden()
    browser.draw(page, "a star")
    browser.drawn(page, 1)
    assert server.engine.submitted[0].loras == ()


def test_a_server_without_adapters_shows_no_list(chrome, tmp_path):
    with (
        http_server.running(tmp_path / "data", SquareEngine(0.01)) as server,
        browser.opened(chrome, server.address) as page,
    ):
        expect(page.locator("#draw")).to_be_enabled()
        expect(page.locator("#a-adapters")).to_have_count(0)


def test_a_long_name_stays_inside_the_form(chrome, server):
    context = {"viewport": {"width": 360, "height": 740}}
    with browser.opened(chrome, server.address, **context) as page:
        expect(page.locator("#draw")).to_be_enabled()
        page.locator("#settings > summary").click()
        page.locator("#a-adapters").get_by_label(NAME, exact=True).check()
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
