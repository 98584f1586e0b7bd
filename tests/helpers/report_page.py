"""Provide a report, a caption that contains HTML, and a parser of the page."""

from html.parser import HTMLParser

from cv3jax.quickstart.report import JUDGED

HOSTILE = (
    '</p><script>alert(1)</script><img src="//example.org/x.png" onerror=alert(1)> "quoted"'
    " 'single' {{ 7 * 6 }} & más"
)
REPORT = {
    "seconds": {
        "install": None,
        "data": 12.25,
        "vae": 301.5,
        "base": 640.75,
        "relay": 333.125,
        "sample": 9.5,
        "total": 1297.125,
    },
    "vae_psnr": {"64": 31.0625, "128": 33.4375},
    "environment": {
        "date": "2026-01-02",
        "hardware": "<2 cores>",
        "versions": {"jax": "0.10.2", "flax": "0.12.8"},
    },
    "n": 208,
    "prompt_following": {
        key: {"count": 0.984375, "all": i / 8} for i, (key, _, _) in enumerate(JUDGED)
    },
    "detail": {
        "real": 1.0,
        "vae_final": 0.8125,
        "control": 0.5,
        "noise_control": 0.4375,
        "relay": 0.75,
        "se": 0.03125,
    },
}


class Page(HTMLParser):
    """Collect every element with its attributes, and the text outside style sheets."""

    def __init__(self, source):
        super().__init__()
        self.elements, self.text, self.open = [], "", None
        self.feed(source)

    def handle_starttag(self, tag, attrs):
        self.open = tag
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        self.open = None

    def handle_data(self, data):
        self.text += "" if self.open == "style" else data
