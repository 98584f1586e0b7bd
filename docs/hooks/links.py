"""Links of pages to files of the repository outside docs/: there, they go to where it is hosted."""

import logging
import os
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LINK = re.compile(r"(?<=\]\()\.\./[^)\s#]+")

log = logging.getLogger("mkdocs.hooks.links")


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
        return f"{config['extra']['repository']}/{kind}/main/{target.relative_to(ROOT)}"

    return LINK.sub(absolute, markdown)
