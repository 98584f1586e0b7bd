"""Write two captioned images as each kind of source with a field in each form.

One image is good; the other may be dropped because of the field. A build's decision on them is
computed without its runner.
"""

import collections
import csv
import dataclasses
import decimal
import io
import json
from typing import Any

import pyarrow
from image_shards import encoded, tar
from pyarrow import parquet

from data_pipeline.builder.blocklist import plain_url
from data_pipeline.builder.filters import make_judge
from data_pipeline.builder.inputs import find_units, read_unit
from data_pipeline.builder.join import merge
from data_pipeline.builder.measure import look
from data_pipeline.builder.settings import Settings
from data_pipeline.builder.statistics import Statistics
from data_pipeline.sources.parquet import read_metadata

SOURCES = ("tar", "parquet", "metadata", "csv", "jsonl", "folder")
BOM = "\ufeff"


@dataclasses.dataclass(frozen=True)
class Form:
    """Describe how a source gives a field: name, the good image's value, and the other's.

    `expected` is the reason for which the other is dropped, "kept", or "refused". `kind` is the
    column's type in parquet, unless it is what pyarrow makes of the values.
    """

    name: str
    good: Any
    other: Any
    expected: str
    kind: pyarrow.DataType | None = None
    marked: bool = False  # the file begins with a byte-order mark


class Case(collections.namedtuple("Case", "filter settings forms cells")):
    """Hold a filter, the settings that switch it on, and its field's typed forms and csv forms."""


def _case(name, settings, reason, values, types, kinds, junk, cells=None, cell_junk=None):
    """Return the forms of one filter.

    `values` are those of the good image and of one that must be dropped.
    """
    good, bad = values
    texts = tuple(map(str, values))
    forms = {
        "as specified": Form(name, good, bad, reason),
        "other case": Form(name.swapcase(), good, bad, reason),
        "other type": Form(name, *types, reason, kinds[0]),
        "BOM": Form(BOM + name, f" {texts[0]}", f"{BOM}{texts[1]} ", reason, marked=True),
        "missing": Form(name, good, None, "kept"),
        "unreadable": Form(name, good if kinds[1] is None else None, junk, "refused", kinds[1]),
    }
    cell = {
        **forms,
        "other type": Form(name, *(cells or texts), reason),
        "unreadable": Form(name, good, cell_junk or junk, "refused"),
    }
    return Case(reason, settings, forms, cell)


SHARES = ((0.1, 0.99), ("0.1", "0.99 "))
CASES = (
    _case(
        "url",
        {"blocked_sources": "blocked.txt"},
        "blocked_source",
        ("http://good.example/1", "http://bad.example/2"),
        (["http://good.example/1"], ["http://bad.example/2"]),
        (None, pyarrow.struct([("href", pyarrow.string())])),
        {"href": "http://bad.example/2"},
        cells=("http://good.example/1", " HTTP://BAD.EXAMPLE/2"),
        cell_junk="http://x/" + "x" * 9000,
    ),
    _case(
        "NSFW",
        {"nsfw_tags": "NSFW,UNSURE"},
        "nsfw",
        ("UNLIKELY", "NSFW"),
        (False, True),
        (pyarrow.bool_(), pyarrow.float64()),
        0.97,
        cells=("false", "True"),
    ),
    _case(
        "punsafe",
        {"max_unsafe": 0.5},
        "unsafe",
        SHARES[0],
        (decimal.Decimal("0.1"), decimal.Decimal("0.99")),
        (pyarrow.decimal128(5, 3), pyarrow.string()),
        "very",
        cells=("0,1", "0,99"),
    ),
    _case(
        "pwatermark",
        {"max_watermark": 0.5},
        "watermark",
        SHARES[0],
        SHARES[1],
        (pyarrow.dictionary(pyarrow.int8(), pyarrow.string()), None),
        -1.0,
    ),
    _case(
        "aesthetic",
        {"min_aesthetic": 4.5},
        "aesthetic",
        (5.5, 1.0),
        (b"5.5", b"1.0"),
        (pyarrow.binary(), pyarrow.bool_()),
        True,
        cell_junk="low",
    ),
)


def write(source: str, root, form: Form) -> tuple[list, str | None]:
    """Write images "a", the good one, and "b", and return (units, metadata or None)."""
    rows = [("a", encoded(1), form.good), ("b", encoded(2), form.other)]
    if source in ("parquet", "metadata"):
        return _parquet(source, root, form, rows)
    if source == "csv":
        return _csv(root, form, rows), None
    values = {key: {} if value is None else {form.name: _plain(value)} for key, _, value in rows}
    if source == "jsonl":
        lines = [
            json.dumps({"file_name": f"{key}.png", "caption": "x", **fields})
            for key, fields in values.items()
        ]
        _images(root, rows)
        _text(root / "metadata.jsonl", "\n".join(lines), form)
        return find_units([str(root)], None), None
    mark = BOM if form.marked else ""
    files = [
        (f"{key}.{kind}", data)
        for key, image, _ in rows
        for kind, data in (
            ("png", image),
            ("txt", b"caption"),
            ("json", (mark + json.dumps(values[key])).encode()),
        )
    ]
    if source == "folder":
        for name, data in files:
            (root / name).write_bytes(data)
        return find_units([str(root)], None), None
    tar(root / "a.tar", files)
    return find_units([str(root / "a.tar")], None), None


def _plain(value):
    """Return a value as JSON has it."""
    if isinstance(value, bytes):
        return value.decode()
    return str(value) if isinstance(value, decimal.Decimal) else value


def _images(root, rows):
    for key, image, _ in rows:
        (root / f"{key}.png").write_bytes(image)


def _text(path, text, form):
    path.write_text(text, encoding="utf-8-sig" if form.marked else "utf-8")


def _csv(root, form, rows):
    _images(root, rows)
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(["file_name", "caption", form.name.strip(BOM)])
    writer.writerows([f"{key}.png", "x", "" if v is None else v] for key, _, v in rows)
    _text(root / "captions.csv", out.getvalue(), form)
    return find_units([str(root)], root / "captions.csv")


def _parquet(source, root, form, rows):
    columns = {"key": [key for key, _, _ in rows]}
    field = pyarrow.array([value for _, _, value in rows], form.kind)
    images = {"png": [image for _, image, _ in rows], "caption": ["x", "x"]}
    if source == "parquet":
        parquet.write_table(
            pyarrow.table({**columns, **images, form.name: field}), root / "a.parquet"
        )
        return find_units([str(root / "a.parquet")], None), None
    parquet.write_table(pyarrow.table({**columns, form.name: field}), root / "m.parquet")
    units, _ = write("folder", root, Form("other", None, None, "kept"))
    return units, str(root / "m.parquet")


def decided(units, metadata: str | None, settings: Settings) -> Statistics:
    """Return the figures of a build's second pass, one item after the other."""
    judge, figures = make_judge(settings, (plain_url("bad.example"),)), Statistics()
    tables = collections.defaultdict(list)
    for key, row in read_metadata(metadata, "key") if metadata else ():
        tables[key].append(row)
    for unit in units:
        for ordinal, item in enumerate(read_unit(unit)):
            facts, decision = look(item, ordinal, 10**6, 10**6), {}
            for each in merge(facts.key, {"rows": [(0, facts)], "metadata": tables[facts.key]}):
                if isinstance(each, tuple):
                    facts = each[1]
                else:
                    decision |= each.value[1]
            decision |= _drop(judge(facts))
            figures.add(unit.name, facts, decision, unit.source)
    return figures


def _drop(drop) -> dict:
    return {"reason": drop.reason, "detail": drop.detail} if drop else {}
