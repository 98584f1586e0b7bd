"""A tokenizer of whole words, and an expander that asks a loopback server."""

import dataclasses

import pytest
from expansion_server import KEY, MODEL

from data_pipeline.chat import rate_limit
from data_pipeline.expansion.run import Expander, make_model
from data_pipeline.expansion.settings import ExpandSettings
from data_pipeline.expansion.store import Store


@dataclasses.dataclass
class Words:
    """In place of a tokenizer: a token a word, and one for the end."""

    length: int = 40

    def count(self, text: str) -> int:
        return len(text.split()) + 1


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return a function that makes an expander with a run's store and a cache, and no pauses."""
    monkeypatch.setattr(rate_limit, "FIRST", 2000.0)

    def made(server, *, run="run", cache="cache", length=40, **changes):
        settings = ExpandSettings(server.url, MODEL, key=KEY, timeout=20.0, retries=1, backoff=1e-3)
        settings = dataclasses.replace(settings, **changes)
        template = settings.check()
        stores = [Store(tmp_path / run, first_counts=True)] if run else []
        stores += [Store(tmp_path / cache)] if cache else []
        model = make_model(settings, template)
        return Expander(model, template, Words(length), stores, fallback=settings.fallback)

    return made
