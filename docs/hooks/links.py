"""Links of pages to files outside docs/, which the book shows where the repository is published."""

import logging
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()\.\./[^)\s#]+")

URL = re.search('^URL = "(.*?)"', (ROOT / "setup.py").read_text(), re.MULTILINE)[1]

log = logging.getLogger("mkdocs.hooks.links")


def on_config(config: Any) -> None:
    """Link the repository at the foot of all pages; `repo_url` would ask GitHub for its stars."""
    icon = {"icon": "fontawesome/brands/github", "link": URL, "name": "The repository"}
    config["extra"]["social"] = [icon]


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Return the page with its links out of docs/ made absolute; warn of those to nothing."""
    folder = Path(config["docs_dir"], page.file.src_uri).parent

    def absolute(link: re.Match) -> str:
        target = Path(os.path.normpath(folder / link[0]))
        if Path(config["docs_dir"]) in target.parents:
            return link[0]
        if not target.exists():
            log.warning("%s links to %s, which is not there", page.file.src_uri, link[0])
        kind = "tree" if target.is_dir() else "blob"
        return f"{URL}/{kind}/main/{target.relative_to(ROOT)}"

    return LINK.sub(absolute, markdown)
