"""Pages that can be read at any width: tables, pictures with captions, commands, navigation."""

import re
from html import escape, unescape
from statistics import mean
from typing import Any

TABLE = re.compile(r"<table>(.*?)</table>", re.DOTALL)
ROW = re.compile(r"<tr>(.*?)</tr>", re.DOTALL)
CELL = re.compile(r"<(t[dh])([^>]*)>(.*?)</\1>", re.DOTALL)
PICTURE = re.compile(r'<p>(<img alt="([^"]*)" src="([^"]*)"(?: title="([^"]*)")? />)</p>')
CODE = re.compile(r"(<code[^>]*>)(.*?)(</code>)", re.DOTALL)
MODULE = re.compile(r'(<span class="doc doc-object-name doc-module-name">)([^<]*)')
HYPHENED = re.compile(r"<[^>]*>|[\w.:/-]*-[\w.:/-]*")

FIGURES = 24  # characters up to which a cell with a digit stays on one line
WORD = 36  # characters up to which a word of code with a hyphen stays on one line
PROSE = 30  # mean characters of a column from which narrow windows show a table row by row
MANY = 8  # columns above which a table of figures is set smaller


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Leave out the navigation beside a page that is a chapter of its own: it has one entry."""
    if page.parent is None:
        page.meta.setdefault("hide", []).append("navigation")
    return markdown


def on_page_content(html: str, **_: Any) -> str:
    """Return the page's HTML with tables, pictures and code made ready for narrow windows."""
    html = TABLE.sub(lambda found: table(found[1]), html)
    html = PICTURE.sub(figure, html)
    html = MODULE.sub(lambda found: found[1] + found[2].replace(".", ".<wbr>"), html)
    return CODE.sub(lambda found: found[1] + HYPHENED.sub(whole, found[2]) + found[3], html)


def figure(found: re.Match) -> str:
    """Return a picture that links to its file, with its title or its alternative text below."""
    img, text, file, title = found.groups()
    caption = title or text
    caption = caption[:1].upper() + caption[1:]
    return f'<figure><a href="{file}">{img}</a><figcaption>{caption}.</figcaption></figure>'


def whole(found: re.Match) -> str:
    """Return a word of code in which no line breaks after a hyphen: a flag, a number, a name."""
    word = found[0]
    if word.startswith("<") or len(word) > WORD:
        return word
    return f'<span class="whole">{word}</span>'


def table(inner: str) -> str:
    """Return a table whose cells name their column, for windows too narrow for columns.

    Figures stay on one line. A table of prose gets a class: narrow windows show its rows one
    below the other. Other tables scroll.
    """
    rows = [CELL.findall(row) for row in ROW.findall(inner)]
    if len(rows) < 2:
        return f"<table>{inner}</table>"
    heads = [plain(text) for _, _, text in rows[0]]
    columns = zip(*([len(plain(cell[2])) for cell in row] for row in rows[1:]), strict=False)
    first, *others = map(mean, columns)
    # a long label may stand beside columns of figures
    prose = max(others, default=0) >= PROSE or (first >= PROSE and len(others) <= 2)

    def labelled(row: re.Match) -> str:
        names = iter(heads)
        return CELL.sub(lambda found: cell(found, next(names, "")), row[0])

    kind = "prose" if prose else "figures many" if len(heads) > MANY else "figures"
    # Material wraps tables that have no class, so the class is on the body
    return (
        f"<table>{ROW.sub(labelled, inner).replace('<tbody>', f'<tbody class={kind!r}>')}</table>"
    )


def cell(found: re.Match, head: str) -> str:
    """Return a cell with the name of its column, on one line if it is a figure."""
    tag, attributes, text = found.groups()
    if tag == "th":
        return found[0]
    said = plain(text)
    if len(said) <= FIGURES and re.search(r"\d", said):
        attributes += ' class="figure"'
    elif len(said) > FIGURES:
        attributes += ' class="words"'
    label = "" if head == "meaning" else escape(head)  # which says nothing beside its cell
    return f'<td{attributes} data-column="{label}">{text}</td>'


def plain(html: str) -> str:
    """Return the text of HTML."""
    return unescape(re.sub("<[^>]*>", "", html)).strip()
