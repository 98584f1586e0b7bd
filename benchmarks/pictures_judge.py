"""Draw the guide's pictures of `cv3jax judge-people`: screenshots of the page and of the report.

    python benchmarks/pictures_judge.py

Two models are made up: one draws the scenes of the captions, the other often draws a scene of
another caption, blurred. Five made-up raters judge them. It writes docs/guides/judge-people-*.png.
Chromium is found as tests/helpers/browser.py finds it.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pictures_serve import NARROW, OUT, ROOT, WIDE, small
from PIL import Image, ImageFilter

from cv3jax.cli import run_command
from cv3jax.commands import judge_export
from cv3jax.evaluation.people.study import Study
from cv3jax.evaluation.people.votes import FIRST, SECOND, TIE, Vote, Votes
from data_pipeline.scenes import grammar
from data_pipeline.scenes.render import render

COUNT, SIDE, RATERS = 24, 256, ("Ada", "Ben", "Chi", "Dora", "Emil")


def draw(place: Path) -> list[str]:
    """Draw the pictures of both models, and return the flags that give them."""
    rng = np.random.default_rng(7)
    scenes = [grammar.sample_scene(7, i) for i in range(COUNT + 1)]
    for name in ("ours", "theirs"):
        (place / name).mkdir()
    for i, scene in enumerate(scenes[:COUNT]):
        other = scene if rng.random() < 0.6 else scenes[i + 1]
        Image.fromarray(render(scene, SIDE)).save(place / "ours" / f"{i:03}.png")
        blurred = Image.fromarray(render(other, SIDE)).filter(ImageFilter.GaussianBlur(4))
        blurred.save(place / "theirs" / f"{i:03}.png")
    captions = [grammar.caption(scene) for scene in scenes[:COUNT]]
    (place / "prompts.txt").write_text("\n".join(captions) + "\n")
    folders = ["--a", str(place / "ours"), "--b", str(place / "theirs")]
    return [*folders, "--prompts", str(place / "prompts.txt")]


def judge(study: Study, path: Path) -> None:
    """Write the votes of made-up raters, the last of whom does not look."""
    rng, votes = np.random.default_rng(3), Votes(path, study)
    lean = rng.normal(0.7, 1.5, (len(study.pairs), 2))  # of each pair, to the first model
    for number, rater in enumerate(RATERS):
        votes.enter(rater)
        said: dict[tuple[int, int], int | None] = {}
        for place, shown in enumerate(study.order(rater)):
            answers = []
            for aspect in range(2):
                here = lean[shown.pair, aspect] + rng.logistic()
                best = said.setdefault(
                    (shown.pair, aspect), None if abs(here) < 0.5 else int(here < 0)
                )
                seen = TIE if best is None else FIRST if shown.left == best else SECOND
                answers.append(
                    int(rng.choice([FIRST, SECOND])) if number == len(RATERS) - 1 else seen
                )
            seconds = 1.2 if number == len(RATERS) - 1 else float(rng.gamma(6, 1.2))
            votes.cast(Vote(rater, place, shown, *answers, round(seconds, 2), 1.8e9))
    votes.close()


def pages(browser: Any, address: str) -> Iterator[tuple[str, bytes]]:
    """Yield (name, PNG) of the page on a wide screen and on a phone, light and dark."""
    for shape, size in (("wide", WIDE), ("narrow", NARROW)):
        for scheme in ("light", "dark"):
            inside = browser.new_context(viewport=size, color_scheme=scheme)
            page = inside.new_page()
            page.goto(address)
            page.get_by_label("Your name").fill(f"{shape} {scheme}"[:60].title())
            page.keyboard.press("Enter")
            for _ in range(3):
                page.wait_for_selector("fieldset.asked:not(:disabled)")
                for key in ("1", "0", "Enter"):
                    page.keyboard.press(key)
                page.wait_for_selector("#next:disabled")
            page.wait_for_selector("fieldset.asked:not(:disabled)")
            page.keyboard.press("2")
            page.wait_for_timeout(200)
            yield f"{shape}-{scheme}", page.screenshot()
            inside.close()


def reports(browser: Any, page_file: Path) -> Iterator[tuple[str, bytes]]:
    """Yield (name, PNG) of the report, light and dark."""
    for scheme in ("light", "dark"):
        inside = browser.new_context(viewport={"width": 1100, "height": 900}, color_scheme=scheme)
        page = inside.new_page()
        page.goto(page_file.as_uri())
        yield f"report-{scheme}", page.screenshot(full_page=scheme == "light")
        inside.close()


def main(argv: list[str] | None = None) -> None:
    """Draw the screenshots from the command line."""
    sys.path.insert(0, str(ROOT / "tests" / "helpers"))
    import browser
    from judged_pictures import Judged

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=OUT, metavar="DIR", help="docs/guides")
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder, browser.browser() as found:
        place = Path(folder)
        flags = draw(place)
        server = Judged(flags, place / "page.sqlite", "--controls", "0.2")
        try:
            made = list(pages(found, server.address))
        finally:
            server.end()
        kept = Votes(place / "page.sqlite")
        kept.close()
        judge(kept.study, place / "votes.sqlite")
        judge_export.main(
            [
                *("--votes", str(place / "votes.sqlite"), "--out", str(place / "out")),
                *("--exclude-above", "0.2"),
            ]
        )
        made += reports(found, place / "out" / "report.html")
    for name, data in made:
        path = args.out / f"judge-people-{name}.png"
        path.write_bytes(small(data))
        print(path)


if __name__ == "__main__":
    run_command(main)
