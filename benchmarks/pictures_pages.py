"""Draw the documents' pictures that are screenshots of pages: build_report, quickstart_report.

This needs Chromium or Chrome, which is found by its usual names or by the variable BROWSER.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import planted
from PIL import Image

from data_pipeline.io.errors import InputError

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
WIDTH, HEIGHT = 900, 1400  # of the window, pixels
COUNT, SHARD = 1000, 500  # pictures that are built into a dataset, and those of a tar
FEWER = ".pictures figure:nth-child(n+6) { display: none; }"  # one row of pictures a reason


def build_report() -> Image.Image:
    """Return the page of a real `cv3jax data build` of made pictures with known faults.

    The picture shows the page's beginning and a row of pictures for each reason, without the
    tables.
    """
    with tempfile.TemporaryDirectory() as folder:
        planted.generate(Path(folder, "tars"), COUNT, shard=SHARD)
        command = [sys.executable, "-m", "data_pipeline.cli", "build", "--input=tars/*.tar"]
        command += ["--output=made_pictures", "--blocked-sources=tars/blocked.txt"]
        command += [f"--max-bytes={planted.MAX_BYTES}", "--max-bad-fraction=0.5"]
        path = [str(Path(__file__).parents[1]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
        subprocess.run(command, check=True, cwd=folder, env=env)
        source = Path(folder, "made_pictures", "report.html").read_text(encoding="utf-8")
        start, end = source.index("<h2>What filters go by"), source.index("<h2>kept")
        page = Path(folder, "page.html")
        short = (source[:start] + source[end:]).replace("</style>", f"{FEWER}</style>", 1)
        page.write_text(short, encoding="utf-8")
        return screenshot(page)


def quickstart_report(page: Path) -> Image.Image:
    """Return the beginning of the page that a finished `make quickstart` wrote."""
    return screenshot(page)


def screenshot(page: Path) -> Image.Image:
    """Return the first WIDTH × HEIGHT pixels of a page as a browser shows it."""
    found = [os.environ["BROWSER"]] if "BROWSER" in os.environ else BROWSERS
    browser = next((path for name in found if (path := shutil.which(name))), None)
    if browser is None:
        raise InputError(f"no browser: install one of {', '.join(BROWSERS)}, or set BROWSER")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "page.png")
        flags = ["--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"]
        flags += ["--disable-background-networking", f"--user-data-dir={folder}/profile"]
        flags += [f"--window-size={WIDTH},{HEIGHT}", f"--screenshot={out}"]
        subprocess.run([browser, *flags, page.resolve().as_uri()], check=True, capture_output=True)
        with Image.open(out) as image:
            return image.convert("RGB")
