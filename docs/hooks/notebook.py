"""The page of examples/notebook/draw.ipynb, with its pictures as files beside it."""

from pathlib import Path
from typing import Any

import nbformat
from mkdocs.structure.files import File
from nbconvert import MarkdownExporter
from traitlets.config import Config

NOTEBOOK = Path(__file__).parents[2] / "examples" / "notebook" / "draw.ipynb"
PAGE = "guides/notebook.md"
HEAD = """
This page is [examples/notebook/draw.ipynb](../../examples/notebook/draw.ipynb). Its cells were run
on a CPU.
"""


def on_files(files: Any, config: Any) -> Any:
    """Add the page and its pictures to the book's files."""
    text, pictures = page()
    files.append(File.generated(config, PAGE, content=text))
    for name, data in pictures.items():
        files.append(File.generated(config, f"guides/{name}", content=data))
    return files


def page() -> tuple[str, dict[str, bytes]]:
    """Return (the Markdown of the notebook, its pictures by the names of their files)."""
    shown = ["image/png", "text/plain"]  # the book's width is not that of a notebook's HTML
    exporter = MarkdownExporter(config=Config(NbConvertBase={"display_data_priority": shown}))
    text, resources = exporter.from_notebook_node(nbformat.read(NOTEBOOK, 4))
    pictures = {f"notebook_{name}": data for name, data in resources["outputs"].items()}
    for number, name in enumerate(resources["outputs"], 1):
        text = text.replace(
            f"![png]({name})", f"![output {number} of the notebook](notebook_{name})"
        )
    title, _, rest = text.strip().partition("\n")
    return f"{title}\n{HEAD}\n{rest}\n", pictures
