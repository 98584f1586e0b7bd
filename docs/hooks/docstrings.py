"""Docstrings as Markdown: a shape, [B, H, W, C], is no link, and <name> is no tag."""

import re
from typing import Any

import griffe

# inline code, and indented blocks
CODE = re.compile(r"(`+.+?`+|(?<=\n\n)(?:    [^\n]*(?:\n+|$))+)", re.DOTALL)


class Plain(griffe.Extension):
    """Escapes what Markdown would take for a link or a tag, outside of code."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Escape the docstring of a module, class, function or attribute."""
        if obj.docstring:
            parts = CODE.split(obj.docstring.value)
            parts[::2] = [part.replace("[", r"\[").replace("<", r"\<") for part in parts[::2]]
            obj.docstring.value = "".join(parts)
