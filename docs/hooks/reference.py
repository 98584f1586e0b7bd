"""The pages of the reference, made of the code itself: commands, recipes and the Python API.

Nothing of it is kept in the repository. No command runs: only their parsers are asked.
"""

import argparse
import ast
import fnmatch
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

PACKAGES = ("cv3jax", "data_pipeline")


def on_files(files: Any, config: Any) -> Any:
    """Add the generated pages to the book's, and give the navigation the pages its stars mean."""
    for name, text in (*command_pages(), *recipe_pages(), *api_pages()):
        files.append(File.generated(config, f"reference/{name}", content=text))
    names = [file.src_uri for file in files.documentation_pages()]
    config.nav = [unfold(item, names) for item in config.nav]
    return files


def unfold(item: Any, names: list[str]) -> Any:
    """Return an item of the navigation with `folder/*` replaced by the pages of that name."""
    if isinstance(item, dict):
        return {title: unfold(inner, names) for title, inner in item.items()}
    if isinstance(item, list):
        return [unfold(inner, names) for inner in item]
    if not item.endswith("*"):
        return item
    found = [name for name in names if fnmatch.fnmatch(name, item)]
    return sorted(found, key=lambda name: (not name.endswith("index.md"), name))


def command_pages() -> Iterator[tuple[str, str]]:
    """Yield (file, Markdown) of each command, and of the list of them."""
    from cv3jax.cli import GROUPS, modules

    lines = ["# Commands", "", "Each takes `--help`, which says the same.", ""]
    for title, names in GROUPS.items():
        lines += [f"## {title}", "", "| command | what it does |", "|---|---|"]
        for name in names:
            page = f"{name.replace(' ', '_')}.md"
            lines.append(f"| [`cv3jax {name}`]({page}) | {escape(modules()[name][1])} |")
            yield f"commands/{page}", command_page(name)
        lines.append("")
    yield "commands/index.md", "\n".join(lines)


def command_page(name: str) -> str:
    """Return the Markdown page of `cv3jax <name>`, made of its parser."""
    from cv3jax.cli import parser_of

    parser = parser_of(name)
    lines = [f"# cv3jax {name}", ""]
    lines += [f"{escape(part)}\n" for part in parser.description.split("\n\n")]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS]
        actions = [a for a in actions if not isinstance(a, argparse._HelpAction)]
        if not actions:
            continue
        title = group.title.capitalize().replace("Options", "Flags")
        lines += [f"## {title}", "", "| flag | meaning | default |", "|---|---|---|"]
        lines += [action_row(action, parser) for action in actions] + [""]
    if parser.epilog:
        example = parser.epilog.strip().removeprefix("example:\n")
        lines += ["## Example", "", "```text", textwrap.dedent(example), "```", ""]
    return "\n".join(lines)


def action_row(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """Return the table's row of one flag or argument."""
    value = ""
    if action.option_strings and action.nargs != 0:
        value = action.metavar or action.dest.upper()
        value = " ".join(value) if isinstance(value, tuple) else value
    names = action.option_strings or [action.metavar or action.dest]
    meaning = escape((action.help or "") % {**vars(action), "prog": parser.prog})
    if action.choices:
        meaning += f" (one of {', '.join(code(str(choice)) for choice in action.choices)})"
    default = "required" if action.required else default_of(action)
    shown = code(" ".join((", ".join(names), value)).strip())
    return f"| {shown} | {meaning} | {default} |"


def default_of(action: argparse.Action) -> str:
    """Return how a flag's default is shown; nothing where its help or its kind says it."""
    if action.default in (None, False, (), [], argparse.SUPPRESS) or action.nargs == 0:
        return ""
    return code(str(action.default))


def recipe_pages() -> Iterator[tuple[str, str]]:
    """Yield (file, Markdown) of each recipe, and of the list of them."""
    from cv3jax.commands.config import markdown, overview
    from cv3jax.recipes import recipes

    rows = []
    for one in overview():
        name = one["recipe"]
        variants = ", ".join(f"`{variant}`" for variant in one["variants"])
        rows.append(f"| [`{name}`]({name}.md) | {escape(one['description'])} | {variants} |")
        doc = ast.get_docstring(ast.parse(recipes()[name].read_text()))
        fields = f"`cv3jax config {name}` prints the same.\n\n{markdown(name)}"
        page = f"# {name}\n\n```text\n{doc}\n```\n\n## Fields\n\n{fields}"
        yield f"recipes/{name}.md", page
    head = (
        "# Recipes\n\nEach is a file in [configs](../../../configs); `NAME:tiny` is the same at a"
        " size that trains on two cores in seconds. `--config.SECTION.FIELD=VALUE` sets a field."
        "\n\n| recipe | what it is | variants |\n|---|---|---|\n"
    )
    yield "recipes/index.md", head + "\n".join(rows) + "\n"


def api_pages() -> Iterator[tuple[str, str]]:
    """Yield (file, Markdown) of each folder of the packages: mkdocstrings reads its modules."""
    rows = []
    for package in PACKAGES:
        for init in sorted((ROOT / package).rglob("__init__.py")):
            folder = init.parent
            name = ".".join(folder.relative_to(ROOT).parts)
            doc = ast.get_docstring(ast.parse(init.read_text())) or ""
            modules = [f for f in sorted(folder.glob("*.py")) if f.name != "__init__.py"]
            text = [f"# {name}", "", doc, ""]
            for module in modules:
                if not module.stem.startswith("__"):
                    text += [f"::: {name}.{module.stem}", ""]
            first = " ".join(doc.split("\n\n")[0].split())
            rows.append(f"| [`{name}`]({name}.md) | {escape(first)} |")
            yield f"api/{name}.md", "\n".join(text)
    head = "# Python API\n\n| package | |\n|---|---|\n"
    yield "api/index.md", head + "\n".join(rows) + "\n"


def code(text: str) -> str:
    """Return a text as code within a table's cell."""
    return f"<code>{escape(text)}</code>" if text else ""


def escape(text: str) -> str:
    """Return a text whose characters mean nothing to Markdown, HTML or a table, but `code` does."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\|*_[]$~":
        text = text.replace(mark, f"&#{ord(mark)};")
    return re.sub("`([^`]+)`", r"<code>\1</code>", " ".join(text.split()))
