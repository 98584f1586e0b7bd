"""TeX as MathML, which browsers draw by themselves: no script and no font has to be fetched."""

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

# what pymdownx.arithmatex leaves with `generic`
SPAN = re.compile(r'<span class="arithmatex">\\\((.*?)\\\)</span>', re.DOTALL)
BLOCK = re.compile(r'<div class="arithmatex">\s*\\\[(.*?)\\\]\s*</div>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    """Return the page's HTML with its formulas drawn."""
    html = SPAN.sub(lambda found: convert(unescape(found[1])), html)
    return BLOCK.sub(
        lambda found: f'<div class="formula">{convert(unescape(found[1]), display="block")}</div>',
        html,
    )
