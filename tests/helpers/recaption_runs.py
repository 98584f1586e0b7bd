"""Provide the sizes of recaptioning test runs, and read their journals."""

import json

from data_pipeline.recaption import journal

COUNT, TURNS = 31, 3


def number(record):
    return int(record["key"][2:])


def lines(folder):
    """Return the journal's events as (record, turn, event)."""
    events = [json.loads(line) for line in (folder / journal.NAME).read_bytes().splitlines()[1:]]
    return [(number(e), e["turn"], e["event"]) for e in events]
