"""Test that what runs keep for themselves is checked by type and range before it is used."""

import json

import kept_files
import pytest

from cv3jax.distillation import resume
from cv3jax.quickstart.stopwatch import Stopwatch
from cv3jax.sampling import jobs
from cv3jax.training import changes
from data_pipeline.builder import publish
from data_pipeline.builder.workspace import DECIDE, PLAN, SHARDS, Work
from data_pipeline.io import kept_fields as kept
from data_pipeline.io.errors import InputError
from data_pipeline.records.feature_cache import IDENTITY, read_identity

WRONG = (None, True, -1, 1.5, "x", "1", [], {}, 10**30, float("nan"), float("inf"))
ENCODED = {
    "format": 1,
    "records": {"lengths": [3], "sha256": "a"},
    "view": {"image_size": 64, "zoom": 1.0, "crop_grid": 8},
    "latents": {"shape": [8, 8, 4], "dtype": "float16", "low": True, "computed": "f", "vae": "a"},
    "text": {"shape": [5, 6], "dtype": "int8", "computed": "f", "t5": "b", "captions": "c"},
}


def test_a_field_of_every_kind():
    for field, right in (
        (kept.whole("", 0, 5), (0, 5)),
        (kept.number("", 0, 5), (0, 0.5, 1.5, 5)),
        (kept.text("", 3), ("", "xyz")),
        (kept.one_of("", True, "b"), (True, "b")),
        (kept.several("", kept.whole("", 1, 2), 1, 2), ([1], [2, 1])),
        (kept.section("", {"a": kept.whole("", 1, 1)}), ({"a": 1}, {"a": 1, "b": 2})),
        (kept.section("", {"a": kept.whole("", 1, 1)}, none=True), (None, {"a": 1})),
    ):
        assert all(map(field.fits, right)), field
        others = [v for v in WRONG if not any(v is one or v == one for one in right)]
        fits = [value for value in others if field.fits(value)]
        assert fits in ([], ["x"], ["x", "1"]), (field, fits)
    assert kept.wrong([], {}) == "it is no object"
    assert kept.wrong({}, {"a": kept.anything("")}) == "it has no a"
    assert kept.wrong({"a": 9}, {"a": kept.whole("", 0, 5)}) == "a is '9', but must be 0..5"


@pytest.mark.parametrize(
    ("section", "field"),
    [(name, None) for name in ("records", "view")]
    + [(name, field) for name, fields in ENCODED.items() if name != "format" for field in fields],
)
def test_every_field_of_a_feature_cache(section, field, tmp_path):
    (tmp_path / IDENTITY).write_text(json.dumps(ENCODED))
    assert read_identity(tmp_path) == ENCODED
    compared = field in ("crop_grid", "captions", "sha256")
    for value in (*WRONG, 0, [0], [-1, 8, 4], [2**40] * 3, [8, 8], "object", "float64", [[1]]):
        told = json.loads(json.dumps(ENCODED))
        if field is None:
            told[section] = value
        else:
            told[section][field] = value
        (tmp_path / IDENTITY).write_text(json.dumps(told))
        right = compared or value is (None if field is None and section == "view" else ...)
        right |= field in ("computed", "vae", "t5") and isinstance(value, str)
        right |= (section, field, value) in (("view", "zoom", 1.5), ("view", "zoom", 0))
        right |= field == "low" and value is True
        right |= field == "lengths" and value in ([8, 8], [2**40] * 3)
        right |= (section, field) == ("text", "shape") and value == [8, 8]
        if right and value == value and value not in (float("inf"),):
            read_identity(tmp_path)
        else:
            with pytest.raises(InputError, match=r"encoded\.json is damaged"):
                read_identity(tmp_path)


def test_a_cache_whose_records_are_terabytes_is_refused(tmp_path):
    told = json.loads(json.dumps(ENCODED))
    told["latents"]["shape"] = [2**20] * 3
    (tmp_path / IDENTITY).write_text(json.dumps(told))
    with pytest.raises(InputError, match=r"a record of more than 2,147,483,648 bytes"):
        read_identity(tmp_path)


@pytest.mark.parametrize("value", WRONG)
def test_other_plans_and_figures(value, tmp_path):
    one = {"step": value, "field": "seed", "was": 1, "now": 2}
    (tmp_path / changes.HISTORY).write_text(json.dumps({"changes": [one]}))
    with pytest.raises(InputError, match=r"run\.json is damaged"):
        changes.read_history(tmp_path)
    assert kept.wrong({"updates": value}, resume._FIGURES)
    (tmp_path / "seconds.json").write_text(json.dumps({"data": value}))
    if value == 1.5 or value == 0:
        assert Stopwatch(tmp_path / "seconds.json", 1.0).seconds["data"] == value
    else:
        with pytest.raises(InputError, match=r"seconds\.json is damaged \(data is"):
            Stopwatch(tmp_path / "seconds.json", 1.0)
    for name in ("seed", "prompts", "tile", "format"):
        (tmp_path / jobs.PLAN).write_text(json.dumps({**kept_files.PLAN, name: value}))
        with pytest.raises(InputError, match=rf"plan\.json is damaged \({name} is"):
            kept_files.plan(tmp_path)
        assert jobs.planned_tile(tmp_path) == 0


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"1", b'{"a": 1, "a": 2}', b"\xff", b"[" * 10**5]
)
def test_a_build_s_own_files_are_one_line_where_they_are_damaged(data, tmp_path):
    work = Work(str(tmp_path))
    for part in (DECIDE, SHARDS):
        (tmp_path / part).mkdir()
        (tmp_path / part / "000000.json").write_bytes(data)
    (tmp_path / PLAN).write_bytes(data)
    for read in (
        lambda: work.read(PLAN),
        lambda: publish.merged(work, 1),
        lambda: publish.finish(work, str(tmp_path / "out"), 1, {}),
    ):
        with pytest.raises(InputError, match=r"\.json is damaged \(.*; remove it and run") as e:
            read()
        assert len(str(e.value).splitlines()) == 1
    for sizes in (None, 1, [1], [[1, 2, 3]], [[0, 1]], [["a", 1]]):
        (tmp_path / SHARDS / "000000.json").write_text(json.dumps({"bytes": 1, "sizes": sizes}))
        with pytest.raises(InputError, match="sizes is"):
            publish.finish(work, str(tmp_path / "out"), 1, {})
