"""Test builds of images with several captions: each caption is judged alone."""

import json

from build_inputs import build, jpeg
from image_shards import tar

from data_pipeline.records.records import captions

LONG, LONGER = "a long caption", "another long caption"


def test_captions_that_a_filter_drops_go_and_the_image_stays_with_the_others(tmp_path):
    given = (
        [LONG, "no", LONGER],
        ["no", LONGER],
        ["no", "nor"],
        "word word word",
        [LONG, "the the the"],
    )
    files = []
    for i, caption in enumerate(given):
        sidecar = json.dumps({"caption": caption, "punsafe": 0.5}).encode()
        files += [(f"{i}.jpg", jpeg(i)), (f"{i}.json", sidecar)]
    tar(tmp_path / "a.tar", files)
    flags = ("--input", tmp_path / "a.tar", "--min-caption", 5, "--max-repetition", 0.5)
    records, report = build(tmp_path / "D", *flags)
    assert {key: captions(record) for key, record in records.items()} == {
        "0": [LONG, LONGER],
        "1": [LONGER],
        "4": [LONG],
    }
    assert [json.loads(records[key]["scores"]) for key in "01"] == [
        {"punsafe": 0.5, "captions": [LONGER]},
        {"punsafe": 0.5},
    ]
    assert report["dropped"] == {"caption_repetition": 1, "caption_short": 1}
    assert report["items"] == report["kept"] + sum(report["dropped"].values()) == 5
