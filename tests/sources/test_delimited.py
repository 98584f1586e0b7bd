"""Test tables of comma-separated values in many dialects.

Each row is right or counted, and an ambiguous table is refused by name.
"""

import json

import pytest
from image_shards import encoded

from data_pipeline.io.errors import InputError
from data_pipeline.packing.pack import pack
from data_pipeline.sources import items
from data_pipeline.sources.delimited import find_form
from data_pipeline.sources.tables import table_rows

HEADER = "file_name,caption,url,NSFW\n"
GOOD = {"file_name": "a.png", "caption": 'a "red", box', "url": "http://a", "NSFW": "NSFW"}


def rows(tmp_path, data, name="captions.csv"):
    table = tmp_path / name
    table.write_bytes(data if isinstance(data, bytes) else data.encode())
    return list(table_rows(table))


@pytest.mark.parametrize(
    "data",
    [
        HEADER + 'a.png,"a ""red"", box",http://a,NSFW\n',
        HEADER + 'a.png,"a \\"red\\", box",http://a,NSFW\n',
        HEADER.replace(",", ", ") + 'a.png, "a ""red"", box", http://a, NSFW\n',
        HEADER.replace(",", ", ") + 'a.png, "a \\"red\\", box", http://a, NSFW\n',
        HEADER.replace(",", ";") + 'a.png;"a ""red"", box";http://a;NSFW\n',
        HEADER.replace(",", "\t") + 'a.png\t"a ""red"", box"\thttp://a\tNSFW\n',
        HEADER.replace(",", "|") + 'a.png|"a ""red"", box"|http://a|NSFW\n',
        "sep=,\n" + HEADER + 'a.png,"a ""red"", box",http://a,NSFW\n',
        '"sep=;"\r\n'
        + (HEADER + 'a.png,"a ""red"", box",http://a,NSFW')
        .replace(",", ";")
        .replace("\n", "\r\n")
        .replace("; box", ", box"),
        "sep=\t\n"
        + (HEADER + 'a.png,"a ""red"", box",http://a,NSFW')
        .replace(",", "\t")
        .replace("\t box", ", box"),
        "\n\n"
        + HEADER.upper().replace("NSFW", "NSFW")
        + '\na.png,"a ""red"", box",http://a,NSFW\n,,,\n\n',
        (HEADER + 'a.png,"a ""red"", box",http://a,NSFW').replace("\n", "\r"),
        ("\ufeff" + HEADER + 'a.png,"a ""red"", box",http://a,NSFW\n').encode(),
        (HEADER + 'a.png,"a ""red"", box",http://a,NSFW\n').encode("utf-16"),
        ("\ufeff" + HEADER + 'a.png,"a ""red"", box",http://a,NSFW\n').encode("utf-16-be"),
        (HEADER + 'a.png,"a ""red"", box",http://a,NSFW\n').encode("utf-32"),
    ],
)
def test_ways_to_write_one_row(data, tmp_path):
    ((_, fields),) = rows(tmp_path, data)
    fields = {name.lower(): value.strip() for name, value in fields.items()}
    assert fields == {name.lower(): value for name, value in GOOD.items()}


@pytest.mark.parametrize(
    ("lines", "right", "damaged"),
    [
        (
            ["a.png,a, b,http://a,NSFW", "b.png,x,http://b,"],
            ["b.png"],
            {2: "5 cells where the header has 4"},
        ),
        (["a.png,x", "b.png,x,http://b,"], ["b.png"], {2: "2 cells where the header has 4"}),
        (["a.png,a, b,http://a"], ["a.png"], {}),  # as many as the header has: nothing tells
        (
            ['a.png,"x,http://a,', "b.png,x,http://b,", "c.png,x,,"],
            ["b.png", "c.png"],
            {2: "a quote that does not close before the next row"},
        ),
        (
            ['a.png,"x,http://a,', 'b.png,"y, z",http://b,'],
            ["b.png"],
            {2: "a quote that does not close before the next row"},
        ),
        (
            ['a.png,"x,http://a,', "more, text"],
            [],
            {2: "a quote that never closes", 3: "2 cells where the header has 4"},
        ),
        (['a.png,"x" y,http://a,', "b.png,x,,"], ["b.png"], {2: "',' expected after '\"'"}),
        (['a.png,"two', 'lines",http://a,', "b.png,x,,"], ["a.png", "b.png"], {}),
        (
            ['a.png,"two', 'lines" and more",http://a,', "b.png,x,,"],
            ["b.png"],
            {2: "',' expected after '\"'", 3: "3 cells where the header has 4"},
        ),
        (
            ["a.png," + "x" * 900 + ",,", "b.png,x,,"],
            ["b.png"],
            {2: "a line or row of more than 500 characters"},
        ),
    ],
)
def test_rows_are_right_or_damaged(lines, right, damaged, tmp_path, monkeypatch):
    monkeypatch.setattr(items, "MAX_TEXT_BYTES", 500)
    found = rows(tmp_path, HEADER + "\n".join(lines) + "\n")
    assert [each["file_name"] for _, each in found if not isinstance(each, str)] == right
    assert {number: each for number, each in found if isinstance(each, str)} == damaged


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"file_name,caption\na.png,x\nb.png,caf\xe9\n", r"line 3 has the byte 0xe9\); convert it"),
        ("file_name,caption\n".encode("utf-16") + b"a", r"it is not UTF-16 \(after line"),
        (
            "file_name,caption\na.png,x\n".encode("utf-16-le"),
            "it contains NULs and may be UTF-16 without",
        ),
        (b"a.png,a picture\nb.png,another\n", r"no header .* its first line is 'a.png,a picture'"),
        (b"", "no header with a column of file names"),
        (b"id,caption\n1,x\n", r"column of file names \(file_name, image, filename, path\)"),
        (b"file_name,url,URL\na.png,b,c\n", "has two columns named 'url'"),
        (
            b"file_name^caption\na.png^x\n",
            "no header .* begin the file with a line such as file_name,",
        ),
    ],
)
def test_tables_that_are_refused_by_name(data, message, tmp_path):
    with pytest.raises(InputError, match=message) as refused:
        rows(tmp_path, data)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_a_column_without_a_name(separator, tmp_path):
    """Such a column is the index that pandas writes."""
    data = ",file_name,caption,\n0,a.png,x,\n1,b.png,y,\n".replace(",", separator)
    found = [fields for _, fields in rows(tmp_path, data)]
    assert [(fields["file_name"], fields["caption"]) for fields in found] == [
        ("a.png", "x"),
        ("b.png", "y"),
    ]


def test_backslashes_stay_where_no_quote_needs_them(tmp_path):
    ((_, fields),) = rows(tmp_path, HEADER + 'a.png,"C:\\new \\n",http://a,\n')
    assert fields["caption"] == "C:\\new \\n"
    assert not find_form(tmp_path / "captions.csv").escapes


def test_cells_are_numbers_but_under_names_that_have_a_meaning(tmp_path):
    ((_, fields),) = rows(tmp_path, "file_name,caption,x,punsafe,y\n1,2,3,0.5,4 5\n")
    assert fields == {"file_name": "1", "caption": "2", "x": 3.0, "punsafe": "0.5", "y": "4 5"}


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_all_rows_are_kept_or_dropped(kind, tmp_path):
    """Packing makes as many records and skips as there are rows, for rows of all kinds."""
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(encoded(ord(name)))
    if kind == "csv":
        lines = ["a.png,one,,", "b.png,x, y, z,,", 'c.png,"open,,', "gone.png,x,,", ",no name,,"]
        text, damaged = HEADER + "\n".join(lines), 3
    else:
        lines = ['{"file_name": "a.png", "CAPTION": "one"}', "{", '{"file_name": 7}', "[1]"]
        lines += ['{"file_name": "gone.png", "caption": "x"}']
        text, damaged = "\ufeff" + "\n\n".join(lines), 3
    (tmp_path / f"Metadata.{kind.upper()}").write_text(text, encoding="utf-8")
    report = pack(tmp_path, tmp_path / "out", shards=1)
    assert report["records"] == 1
    assert report["skipped"] == {items.BAD_TEXT: damaged, items.MISSING: 1}
    assert report["records"] + sum(report["skipped"].values()) == len(lines)


def test_json_lines_in_other_encodings_and_of_any_length(tmp_path, monkeypatch):
    monkeypatch.setattr(items, "MAX_TEXT_BYTES", 200)
    lines = [
        json.dumps({"file_name": f"{i}.png", "caption": "x" * (300 * (i == 1))}) for i in range(3)
    ]
    for codec in ("utf-8", "utf-8-sig", "utf-16", "utf-32"):
        found = rows(tmp_path, "\n".join(lines).encode(codec), "captions.jsonl")
        assert [each["file_name"] if isinstance(each, dict) else each for _, each in found] == [
            "0.png",
            "a line of more than 200 bytes",
            "2.png",
        ]
    found = rows(tmp_path, b'{"file_name": "a.png"}\n{"file_name": "caf\xe9.png"}\n', "c.jsonl")
    assert [type(each) for _, each in found] == [dict, str]
    with pytest.raises(InputError, match=r"not UTF-16 \(after line 1\)"):
        rows(tmp_path, "{}\n".encode("utf-16") + b"a", "c.jsonl")
