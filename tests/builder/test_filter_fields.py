"""Test each filter with each kind of source and each form of its field.

Every item must be kept, dropped or refused.
"""

import json

import pytest
from build_inputs import jpeg
from field_sources import CASES, SOURCES, Form, decided, write

from data_pipeline.builder.checks import check_figures
from data_pipeline.builder.filters import ASKED_BY
from data_pipeline.builder.settings import BuildSettings, Settings
from data_pipeline.cli import main
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import open_records

TABLE = [
    pytest.param(case, source, form, id=f"{case.filter}-{source}-{form.replace(' ', '_')}")
    for case in CASES
    for source in SOURCES
    for form in case.forms
]
UNSAFE = CASES[2].forms["other type"]
FIELD = {setting: field for field, setting in ASKED_BY.items()}


@pytest.mark.parametrize(("case", "source", "form"), TABLE)
def test_a_filter_finds_its_field(case, source, form, tmp_path):
    given = (case.cells if source == "csv" else case.forms)[form]
    settings = Settings(**case.settings, min_contrast=0)
    figures = decided(*write(source, tmp_path, given), settings)
    assert figures.items == 2 == figures.kept + figures.reasons.total()
    field = FIELD[next(iter(case.settings))]
    (counted,) = (fields[field] for fields in figures.fields.values())
    dropped = given.expected not in ("kept", "refused")
    assert dict(figures.reasons) == ({given.expected: 1} if dropped else {})
    assert counted.total() == 2
    assert counted["missing"] == sum(value is None for value in (given.good, given.other))
    assert counted["unreadable"] == (form == "unreadable")
    if form != "unreadable":
        check_figures(figures, BuildSettings(settings))
        return
    with pytest.raises(
        InputError, match=rf"^a filter's field .*: {field} of 1 of 2 items, such as"
    ):
        check_figures(figures, BuildSettings(settings))
    check_figures(figures, BuildSettings(settings, allow_unreadable=True))
    check_figures(figures, BuildSettings(Settings()))  # no filter asks for it


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("case", CASES, ids=[case.filter for case in CASES])
def test_a_filter_whose_field_no_image_has(case, source, tmp_path):
    settings = Settings(**case.settings)
    figures = decided(*write(source, tmp_path, Form("other", 1, 2, "kept")), settings)
    with pytest.raises(InputError, match=r"needs .*, which no item of .* has; join it"):
        check_figures(figures, BuildSettings(settings))
    check_figures(figures, BuildSettings(settings, allow_unreadable=True))


def test_one_source_of_two_has_it(tmp_path):
    for name, fields in (("a", {"punsafe": 0.1}), ("b", {})):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.jpg").write_bytes(jpeg(len(fields)))
        (tmp_path / name / "x.txt").write_text("caption")
        (tmp_path / name / "x.json").write_text(json.dumps(fields))
    flags = ["build", "--max-unsafe", "0.5", "--out", str(tmp_path / "D")]
    flags += [flag for name in "ab" for flag in ("--input", str(tmp_path / name))]
    with pytest.raises(InputError, match=r"^--max-unsafe needs punsafe or .* no item of folder"):
        main(flags)
    assert not (tmp_path / "D").exists()
    main([*flags, "--allow-unreadable-fields"])
    assert len(open_records(tmp_path / "D")) == 2


@pytest.mark.parametrize("source", ["tar", "parquet", "metadata", "csv", "jsonl"])
def test_each_kind_of_source_through_all_passes(source, tmp_path):
    write(source, tmp_path, CASES[2].cells["other type"] if source == "csv" else UNSAFE)
    given = {"tar": "a.tar", "parquet": "a.parquet"}.get(source, "")
    flags = ["build", "--input", str(tmp_path / given), "--out", str(tmp_path / "D")]
    flags += {
        "csv": ["--captions", str(tmp_path / "captions.csv")],
        "metadata": ["--metadata", str(tmp_path / "m.parquet")],
    }.get(source, [])
    main([*flags, "--max-unsafe", "0.5"])
    assert [record["key"] for record in open_records(tmp_path / "D")] == ["a"]
    report = json.loads((tmp_path / "D" / "report.json").read_text())
    assert (report["items"], report["kept"], report["dropped"]) == (2, 1, {"unsafe": 1})


def test_the_command_refuses_and_resumes(tmp_path, capsys):
    """The refusal has the field's name, an example, a count and the flag in one line.

    With the flag, all passes drop, keep and count items, and the report does too.
    """
    source = tmp_path / "S"
    source.mkdir()
    for i, fields in enumerate(
        (
            {"URL": ["http://Bad.example/1"], "NSFW": False, "punsafe": "0.1"},
            {"url": "http://a/2", "nsfw": "nsfw ", "PUNSAFE": 0.1},
            {"Url": "http://a/3", "NSFW": "UNLIKELY", "punsafe": "0,99"},
            {"url": "http://a/4", "NSFW": "UNLIKELY", "punsafe": {"score": 0.1}},
            {"url": "http://a/5", "NSFW": "UNLIKELY", "punsafe": 0.1},
        )
    ):
        (source / f"{i}.jpg").write_bytes(jpeg(i))
        (source / f"{i}.TXT").write_text("caption")
        (source / f"{i}.json").write_text(json.dumps(fields))
    (tmp_path / "blocked.txt").write_bytes("bad.example\r\n".encode("utf-16"))
    flags = [
        "build",
        "--input",
        str(source),
        "--out",
        str(tmp_path / "D"),
        "--nsfw-tags",
        "NSFW",
    ]
    flags += ["--blocked-sources", str(tmp_path / "blocked.txt"), "--max-unsafe", "0.5"]
    with pytest.raises(InputError) as refused:
        main(flags)
    assert str(refused.value) == (
        "a filter's field has values that cannot be understood: unsafe of 1 of 5 items, such as"
        " punsafe = {'score': 0.1} (--max-unsafe); correct them, or give --allow-unreadable-fields"
        " to let these items pass the filter, and run the same command to resume"
    )
    main([*flags, "--allow-unreadable-fields"])
    assert "not understood 1: unsafe (such as punsafe = {'score': 0.1})" in capsys.readouterr().out
    report = json.loads((tmp_path / "D" / "report.json").read_text())
    assert sorted(record["key"] for record in open_records(tmp_path / "D")) == ["3", "4"]
    assert report["dropped"] == {"blocked_source": 1, "nsfw": 1, "unsafe": 1}
    (fields,) = report["fields"].values()
    assert fields["unsafe"] == {"read": 4, "missing": 0, "unreadable": 1}
    assert fields["aesthetic"] == {"read": 0, "missing": 5, "unreadable": 0}
    assert "not understood" in (tmp_path / "D" / "report.html").read_text()
