"""Test that what the fuzzers make mostly comes past the readers' first checks, and none fails."""

import random
import sys
from pathlib import Path

import altered_descriptions
import pytest

FUZZ = Path(__file__).parents[1] / "fuzz"
TRIES = 60


@pytest.fixture(autouse=True)
def fuzzers(monkeypatch):
    """Let the fuzzers be imported by name, and forgotten."""
    monkeypatch.syspath_prepend(str(FUZZ))
    before = set(sys.modules)
    yield
    for name in {path.stem for path in FUZZ.glob("*.py")} & (set(sys.modules) - before):
        del sys.modules[name]


def test_thrift_comes_back_as_it_was():
    import parquets
    import thrift_trees

    for whole in parquets.seeds():
        footer = 8 + int.from_bytes(whole[-8:-4], "little")
        fields, end = thrift_trees.parse(whole[-footer:-8])
        assert end == footer - 8
        assert thrift_trees.parse(thrift_trees.written(fields))[0] == fields
        changed, _ = thrift_trees.parse(whole[-footer:-8])
        rng = random.Random(0)
        while changed == fields:
            thrift_trees.change(changed, rng)
        again, _ = thrift_trees.parse(thrift_trees.written(changed))
        assert again != fields


@pytest.mark.parametrize(("name", "least"), [("tars", 0.8), ("parquets", 0.7)])
def test_damaged_files(name, least):
    import mutation

    fuzzer = __import__(name)
    ends = [fuzzer.read(fuzzer.make(random.Random(seed))) for seed in range(TRIES)]
    assert {*ends} == {*mutation.ENDS}
    assert ends.count(mutation.UNOPENED) < (1 - least) * TRIES
    assert fuzzer.make(random.Random(3)) == fuzzer.make(random.Random(3))


def test_altered_descriptions(tmp_path):
    import campaign
    import descriptions

    places = [altered_descriptions.copied(tmp_path / name, name) for name in descriptions.NAMES]
    ends = ends_of(descriptions.make(places))
    assert {*ends} == {*campaign.ENDS}
    assert ends.count(campaign.UNPARSED) < 0.4 * TRIES


def test_altered_settings(tmp_path):
    import campaign
    import settings

    ends = ends_of(settings.make(tmp_path))
    assert {*ends} == {*campaign.ENDS}
    assert ends.count(campaign.UNPARSED) < 0.4 * TRIES


def ends_of(make) -> list[str]:
    import campaign

    return [campaign.tried(make(random.Random(str(seed)))[1]) for seed in range(TRIES)]


def test_a_failure_is_named():
    import campaign

    def broken():
        raise KeyError("x")

    assert campaign.tried(broken).startswith("KeyError in ")
    assert campaign.tried(lambda: None) == campaign.ACCEPTED
