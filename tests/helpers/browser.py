"""Drive Debian's Chromium over the server's page, and see that the page keeps to its rules."""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Iterator
from urllib.parse import urlsplit

from playwright.sync_api import Browser, Page, expect, sync_playwright

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
MISSING = "no browser; make setup-browser installs one, or BROWSER names it"
expect.set_options(timeout=20_000)


def path() -> str | None:
    """Return where Chromium or Chrome is, or None."""
    names = [os.environ["BROWSER"]] if "BROWSER" in os.environ else NAMES
    return next((found for name in names if (found := shutil.which(name))), None)


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Yield a browser without a window."""
    with sync_playwright() as tools:
        started = tools.chromium.launch(executable_path=path(), args=["--no-sandbox"])
        yield started
        started.close()


@dataclasses.dataclass
class Seen:
    """What the page did: its console, its exceptions, the hosts it asked and the answers."""

    said: list[str] = dataclasses.field(default_factory=list)
    broke: list[str] = dataclasses.field(default_factory=list)
    hosts: set[str] = dataclasses.field(default_factory=set)


@contextlib.contextmanager
def opened(browser: Browser, address: str, **context: object) -> Iterator[Page]:
    """Yield the page of a server in a profile of its own; it is ready to draw.

    At its end the page must have thrown nothing, broken no rule of its content security policy, and
    asked no other host. context: of Playwright's new_context.
    """
    context = {"viewport": {"width": 1280, "height": 800}, **context}
    inside = browser.new_context(**context)
    page, seen = inside.new_page(), Seen()
    page.on("console", lambda message: seen.said.append(message.text))
    page.on("pageerror", lambda e: seen.broke.append(str(e)))
    page.on("request", lambda request: seen.hosts.add(urlsplit(request.url).netloc))
    page.goto(address)
    try:
        yield page
        assert seen.broke == []
        assert [text for text in seen.said if "Failed to load resource" not in text] == []
        # pictures of the page itself have no host
        assert seen.hosts - {""} == {urlsplit(address).netloc}
    finally:
        inside.close()


def draw(page: Page, prompt: str) -> None:
    """Type a prompt and draw it by the keyboard, when the server has answered."""
    expect(page.locator("#draw")).to_be_enabled()
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.keyboard.press("Control+Enter")


def drawn(page: Page, count: int) -> None:
    """Wait until the gallery has so many pictures and the viewer shows one that is finished."""
    expect(page.locator("#gallery .thumb:not(.waiting)")).to_have_count(count)
    expect(page.locator("#gallery .thumb.waiting")).to_have_count(0)


def width_of(page: Page, selector: str) -> int:
    """Return the width in pixels of the picture that an <img> holds."""
    image = page.locator(selector)
    expect(image).to_be_visible()
    return image.evaluate("async (e) => { await e.decode(); return e.naturalWidth; }")
