"""Draw the guide's pictures of the page of `cv3jax serve`, which are screenshots.

    python benchmarks/pictures_serve.py

It serves the packaged scenes, draws with the page in Chromium, and writes
docs/guides/serve-page-{wide,narrow}-{light,dark}.png. It takes a few minutes, most of which the
server needs to start. Chromium is found as tests/helpers/browser.py finds it.
"""

import argparse
import contextlib
import io
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from PIL import Image

from cv3jax.cli import run_command

ROOT = Path(__file__).parents[1]
OUT = ROOT / "docs" / "guides"
LARGEST = 200_000  # bytes of a picture
WIDE, NARROW = {"width": 1280, "height": 860}, {"width": 390, "height": 844}
PROMPTS = (
    "a large red circle in the center, white background",
    "a small pink star to the left of a large cyan cross, black background",
    "a large blue ring in the center, grey background",
    "a large green triangle in the center, white background",
    "a large orange star in the center, black background",
    "a small green star on the left and a large purple circle on the right, black background",
)


@contextlib.contextmanager
def serving(checkpoint: str) -> Iterator[str]:
    """Yield the address of a server of a cascade; it ends with the block."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "cv3jax", "serve", "--checkpoint", checkpoint]
        command += ["--size", "128,128x192,256", "--port", "0", "--batch", "4"]
        command += ["--access-log", "none", "--workdir", folder]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
            try:
                yield next(line.split()[-1] for line in server.stderr if "ready at http" in line)
            finally:
                server.terminate()


def pictures(browser: Any, address: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, PNG) of each screenshot."""
    for scheme in ("light", "dark"):
        inside = browser.new_context(viewport=WIDE, color_scheme=scheme)
        page = inside.new_page()
        page.goto(address)
        for seed, prompt in enumerate(PROMPTS):
            draw(page, prompt, seed)
        if scheme == "dark":
            page.get_by_label("Compare with other settings").check()
            page.locator("#b-base-guidance").fill("3")
            draw(page, PROMPTS[1], 8, "compare")
            page.evaluate("scrollTo(0, 0); document.getElementById('composer').scrollTop = 0")
        page.get_by_label("Prompt", exact=True).blur()
        yield f"wide-{scheme}", page.screenshot()
        page.set_viewport_size(NARROW)
        page.reload()
        shown = page.locator("#viewer[data-kind=picture]")
        shown.wait_for()
        if scheme == "dark":
            page.locator("#gallery button").nth(2).click()
            page.get_by_role("link", name="Download").wait_for()
        else:
            hold(page)
            page.locator("#n").fill("4")
            page.get_by_label("Prompt", exact=True).fill(PROMPTS[1])
            page.keyboard.press("Control+Enter")
            page.locator(".tile button img:not([hidden])").nth(3).wait_for()
        page.locator("#viewer").evaluate("e => e.scrollIntoView({block: 'start'})")
        yield f"narrow-{scheme}", page.screenshot()
        inside.close()


def draw(page: Any, prompt: str, seed: int, shown: str = "picture") -> None:
    """Draw a prompt and wait until the viewer shows it."""
    count = page.locator("#gallery .thumb").count() + (2 if shown == "compare" else 1)
    page.locator("#seed").fill(str(seed))
    page.get_by_label("Prompt", exact=True).fill(prompt)
    page.keyboard.press("Control+Enter")
    page.wait_for_function(
        "count => document.querySelectorAll('.thumb:not(.waiting)').length === count", arg=count
    )
    page.locator(f"#viewer[data-kind={shown}]").wait_for()


def hold(page: Any) -> None:
    """Let the page hear of a job until all of its pictures have previews, and not after that."""
    seen = []

    def answer(route: Any) -> None:
        while not seen:
            said = route.fetch()
            if all(one["preview"] or one["url"] for one in said.json()["pictures"]):
                seen.append(said)
                route.fulfill(response=said)

    page.route("**/v1/jobs/job_*", answer)


def small(data: bytes) -> bytes:
    """Return a PNG of few bytes: with 256 colours where it would be too large otherwise."""
    image, out = Image.open(io.BytesIO(data)).convert("RGB"), io.BytesIO()
    image.save(out, "PNG", optimize=True)
    if out.tell() > LARGEST:
        out = io.BytesIO()
        image.quantize(256, kmeans=2).save(out, "PNG", optimize=True)
    return out.getvalue()


def main(argv: list[str] | None = None) -> None:
    """Draw the screenshots from the command line."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import browser

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="docs/guides")
    parser.add_argument("--address", metavar="URL", help="a server that runs already")
    args = parser.parse_args(argv)
    made = contextlib.nullcontext(args.address) if args.address else serving("scenes")
    with made as address, browser.browser() as found:
        for name, data in pictures(found, address):
            path = args.out / f"serve-page-{name}.png"
            path.write_bytes(small(data))
            print(path)


if __name__ == "__main__":
    run_command(main)
