"""Test a directory of pictures that grows.

Lines are appended to its file of prompts, and other calls add pictures.
"""

import json

import numpy as np
import pytest
from painter import LINES, Painter, contents

from cv3jax.reports.pictures import GAP, save_png
from cv3jax.sampling.inputs import Prompt, beginnings, read_prompts
from cv3jax.sampling.jobs import PLAN, Jobs, check_plan
from cv3jax.sampling.overview import overview
from cv3jax.sampling.vocabulary import say_unknown
from data_pipeline.io.errors import InputError


def plan_of(path, num=1, **other):
    prompts, found = read_prompts(path, num)
    plan = {"prompts": {"lines": len(prompts), "sha256": found}, "num": num, **other}
    return plan, Jobs(prompts, num, 0)


@pytest.mark.parametrize(
    "before", ["a\nb", "a\nb\n", "a\r\nb\r\n", "a\r\nb", "\ufeffa\nb\n", "a\nb\n\n"]
)
def test_appended_lines_are_known_however_the_file_ended(before, tmp_path):
    path, out = tmp_path / "p.txt", tmp_path / "out"
    out.mkdir()
    path.write_bytes(before.encode())
    plan, jobs = plan_of(path)
    assert not check_plan(out, plan, jobs, path)
    (out / PLAN).write_text(json.dumps(plan))
    assert not check_plan(out, plan, jobs, path)
    end = "\r\n" if "\r" in before else "\n"
    path.write_bytes((before.rstrip("\r\n") + end + "c" + end + "d").encode())
    assert check_plan(out, *plan_of(path), path)
    assert plan["prompts"]["sha256"] in beginnings(path, 2)


@pytest.mark.parametrize(
    ("text", "other", "line"),
    [
        ("a\nB\nc\n", {}, r"other values of prompts; give"),
        ("c\na\nb\n", {}, r"other values of prompts; give"),
        ("a\n", {}, r"other values of prompts; give"),
        ("a\nbc\nd\n", {}, r"other values of prompts; give"),
        ("a\nb\nc\n", {"seed": 1}, r"other values of prompts, seed; give"),
    ],
)
def test_other_changes_are_another_plan(text, other, line, tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a\nb\n")
    (tmp_path / PLAN).write_text(json.dumps(plan_of(path, seed=0)[0]))
    path.write_text(text)
    with pytest.raises(InputError, match=line):
        check_plan(tmp_path, *plan_of(path, **{"seed": 0, **other}), path)


def test_names_of_more_digits_take_another_directory(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("a\n")
    (tmp_path / PLAN).write_text(json.dumps(plan_of(path, 60_000)[0]))
    path.write_text("a\nb\n")
    with pytest.raises(
        InputError,
        match="60,000 pictures with 5 digits in their names, but 120,000 pictures need 6",
    ):
        check_plan(tmp_path, *plan_of(path, 60_000), path)


def test_the_pictures_of_appended_lines_are_made_and_the_others_stay(paint, whole, tmp_path):
    (tmp_path / "more.txt").write_text("\n".join([*LINES, "one more", "and another"]))
    painter = Painter()
    figures = paint("whole", "--seed", "7", painter=painter, prompts="more.txt")
    assert (figures["pictures"], figures["made"]) == (13, 2)
    now = contents(tmp_path / "whole")
    assert {name: now[name] for name in whole if name.endswith(".png")} == {
        name: data for name, data in whole.items() if name.endswith(".png")
    }
    lines = [json.loads(line) for line in now["index.jsonl"].decode().splitlines()]
    assert [line["prompt"] for line in lines] == [*LINES, "one more", "and another"]
    assert paint("whole", "--seed", "7", prompts="more.txt")["made"] == 0
    with pytest.raises(InputError, match=r"other values of prompts; give"):
        paint("whole", "--seed", "7")  # the shorter file is another plan now


def test_an_index_of_fewer_pictures_does_not_stay(paint, whole, tmp_path):
    (tmp_path / "more.txt").write_text("\n".join([*LINES, "one more", "and another"]))

    def die(batch):
        raise KeyError

    with pytest.raises(KeyError):
        paint("whole", "--seed", "7", painter=Painter(die), prompts="more.txt")
    assert not (tmp_path / "whole" / "index.jsonl").exists()


def picture(value, side=16):
    return np.full((side, side, 3), value, np.uint8)


def tiles(sheet, rows, side=16):
    """Return the grey of the pictures of each row of a sheet, from the left."""
    found = []
    for row in range(rows):
        line = sheet[GAP + row * (side + GAP) + side // 2, :, 0]
        values = [int(v) for v in line if v not in (0, 255)]
        found.append([v for i, v in enumerate(values) if i == 0 or v != values[i - 1]])
    return found


def test_a_contact_sheet_shows_what_earlier_calls_made(tmp_path):
    for seed in range(4):
        save_png(tmp_path / f"00_a_star_{seed}.png", picture(60 + seed))
    save_png(tmp_path / "01_a_ring_0.png", picture(80, side=32))
    (tmp_path / "02_broken_0.png").write_bytes(b"no picture")
    save_png(tmp_path / "00000_of_a_file_0.png", picture(99))
    save_png(tmp_path / "contact_sheet.png", picture(98))
    save_png(tmp_path / "00_a_star_1.png", picture(70))  # drawn again
    sheet = overview(tmp_path, {"00_a_star": "a star"}, ["00_a_star_1.png"])
    white = np.where(np.isin(sheet, (60, 70, 62, 63, 80)), sheet, 255)
    assert tiles(white, 2) == [[60, 70, 62, 63], [80]]


def test_a_contact_sheet_has_room_for_what_was_just_made(tmp_path):
    for seed in range(12):
        save_png(tmp_path / f"00_a_star_{seed}.png", picture(100 + seed))
    sheet = overview(tmp_path, {"00_a_star": "a star"}, [f"00_a_star_{i}.png" for i in (10, 11)])
    white = np.where(np.isin(sheet, range(100, 112)), sheet, 255)
    assert tiles(white, 1) == [[100, 101, 102, 103, 104, 105, 110, 111]]


class Known:
    """Stand in for a tokenizer without any words."""

    def unknown(self, prompts):
        return [word for prompt in prompts for word in prompt.split()]


def test_unknown_words_are_one_line(capsys):
    assert say_unknown(Known(), []) == []
    assert capsys.readouterr().err == ""
    say_unknown(Known(), ["photo", "cat"])
    line = capsys.readouterr().err
    assert "'photo', 'cat'; what" in line
    say_unknown(Known(), [f"word{i}" for i in range(20)] + ["x" * 500])
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "'word7' and 13 more;" in line


def test_prompts_of_a_jsonl_may_be_appended_too(tmp_path):
    path = tmp_path / "p.jsonl"
    path.write_text('{"prompt": "a", "seed": 5}\n')
    (tmp_path / PLAN).write_text(json.dumps(plan_of(path)[0]))
    with path.open("a") as file:
        file.write('{"prompt": "b", "name": "x"}\n')
    plan, jobs = plan_of(path)
    assert check_plan(tmp_path, plan, jobs, path)
    assert jobs.prompts == [Prompt("a", 5), Prompt("b", None, "x")]
