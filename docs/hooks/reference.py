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
    ahead = ("index.md", "public.md")
    return sorted(found, key=lambda name: (not name.endswith(ahead), name.removesuffix(".md")))


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
    lines += [f"{flags(escape(part))}\n" for part in parser.description.split("\n\n")]
    for group in parser._action_groups:
        actions = [a for a in group._group_actions if a.help != argparse.SUPPRESS]
        actions = [a for a in actions if not isinstance(a, argparse._HelpAction)]
        if not actions:
            continue
        title = {"options": "Flags", "positional arguments": "Arguments"}.get(group.title)
        title = title or group.title[0].upper() + group.title[1:]
        lines += [f"## {title}", "", "| flag | meaning | default |", "|---|---|---|"]
        lines += [action_row(action, parser) for action in actions] + [""]
    if parser.epilog:
        example, *notes = re.split(r"\n\n(?=\S)", parser.epilog.strip().removeprefix("example:\n"))
        lines += ["## Example", "", "```sh", textwrap.dedent(example), "```", ""]
        lines += [f"- {flags(escape(line))}" for line in "\n".join(notes).splitlines()]
    return pages("\n".join(lines))


def action_row(action: argparse.Action, parser: argparse.ArgumentParser) -> str:
    """Return the table's row of one flag or argument."""
    value = ""
    if action.option_strings and action.nargs != 0:
        value = action.metavar or action.dest.upper()
        value = " ".join(value) if isinstance(value, tuple) else value
    names = action.option_strings or [action.metavar or action.dest]
    said = (action.help or "") % {**vars(action), "prog": parser.prog}
    meaning, default = split_default(said, action)
    if action.choices:
        meaning += f" (one of {', '.join(code(str(choice)) for choice in action.choices)})"
    shown = code(" ".join((", ".join(names), value)).strip())
    return f"| {shown} | {meaning} | {default} |"


def split_default(said: str, action: argparse.Action) -> tuple[str, str]:
    """Return (meaning, default) of a flag, from its help where that ends with the default."""
    if action.required:
        return flags(escape(said)), "required"
    named = re.search(r" ?\(default: (.*)\)$", said)
    if named:
        return flags(escape(said[: named.start()])), flags(escape(named[1]))
    if action.default in (None, False, (), [], argparse.SUPPRESS) or action.nargs == 0:
        return flags(escape(said)), ""
    return flags(escape(said)), code(str(action.default))


def flags(html: str) -> str:
    """Return HTML whose flags are code."""
    return re.sub(
        r"(?<![\w>-])--[a-z][\w.-]*\b(=[\w.-]*\w)?", lambda flag: f"<code>{flag[0]}</code>", html
    )


def recipe_pages() -> Iterator[tuple[str, str]]:
    """Yield (file, Markdown) of each recipe, and of the list of them."""
    from cv3jax.commands.config import markdown, overview
    from cv3jax.recipes import recipes

    rows = []
    for one in overview():
        name = one["recipe"]
        variants = ", ".join(f"`{variant}`" for variant in one["variants"])
        rows.append(f"| [`{name}`]({name}.md) | {escape(one['description'])} | {variants} |")
        doc = recipe_text(ast.get_docstring(ast.parse(recipes()[name].read_text())))
        fields = f"`cv3jax config {name}` prints the same.\n\n{markdown(name)}"
        page = f"# {name}\n\n{doc}\n\n## Fields\n\n{fields}"
        yield f"recipes/{name}.md", page
    head = (
        "# Recipes\n\nEach is a file in [configs](../../../configs); `NAME:tiny` is the same at a"
        " size that trains on two cores in seconds. `--config.SECTION.FIELD=VALUE` sets a field."
        "\n\n| recipe | what it is | variants |\n|---|---|---|\n"
    )
    yield "recipes/index.md", head + "\n".join(rows) + "\n"


def recipe_text(doc: str) -> str:
    """Return a recipe's docstring as Markdown, with blocks of commands and links to pages."""
    blocks = re.sub(
        r"(?:^    .*\n?)+",
        lambda block: f"```sh\n{textwrap.dedent(block[0]).rstrip()}\n```\n",
        doc,
        flags=re.MULTILINE,
    )
    return pages(blocks)


def pages(markdown: str) -> str:
    """Return the Markdown of a reference page with links for the files of the book's pages."""

    def link(found: re.Match) -> str:
        title = (ROOT / found[0]).read_text().splitlines()[0].removeprefix("# ")
        return f"[{title.partition(':')[0]}](../../{found[1]}.md)"

    return re.sub(r"docs/(\S+?)\.md", link, markdown)


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
    yield "api/public.md", public_page()
    head = (
        "# Python API\n\n[The public API](public.md) is what a program can build on. The other"
        " pages are for who changes the code, and any version may change what they show.\n\n"
        "| package | what it holds |\n|---|---|\n"
    )
    yield "api/index.md", head + "\n".join(rows) + "\n"


def public_page() -> str:
    """Return the page of `cv3jax.__all__`, whose names mkdocstrings reads at their homes."""
    import cv3jax

    lines = [
        "# The public API",
        "",
        "`cv3jax.__all__` names the public API:"
        f" {', '.join(f'`{name}`' for name in cv3jax.__all__)}. Everything else is private.",
        "",
        "Versions follow [semantic versioning](https://semver.org). From 1.0 on, only a major"
        " version changes or removes a public name, argument or result in a way that programs"
        " notice. Before 1.0, a minor version may, and [the changelog](../../../CHANGELOG.md) says"
        " so. What is private may change in any version.",
        "",
        "[Draw from Python](../../guides/python.md) shows how it is used.",
        "",
    ]
    for name in ("Cascade", "Pictures", "Step", "Upscaled", "Functions", "CancelledError"):
        options = ["    options:", "      heading_level: 2", "      show_root_full_path: false"]
        options.append('      filters: ["!^_(?!_call__)"]')  # a cascade is called
        lines += [f"::: {cv3jax.HOMES[name]}.{name}", *options, ""]
    return "\n".join(lines)


def code(text: str) -> str:
    """Return a text as code within a table's cell."""
    return f"<code>{escape(text)}</code>" if text else ""


def escape(text: str) -> str:
    """Return a text whose characters mean nothing to Markdown, HTML or a table, but `code` does."""
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    for mark in "\\|*_[]$~":
        text = text.replace(mark, f"&#{ord(mark)};")
    return re.sub("`([^`]+)`", r"<code>\1</code>", " ".join(text.split()))
