"""Test `cv3jax data …` and the emoji example as commands."""

import errno
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_pipeline.cli import COMMANDS, main
from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import open_records


def test_scenes_inspect_and_pack(tmp_path, capsys):
    main(
        [
            "scenes",
            "--out",
            str(tmp_path / "d"),
            "--num",
            "9",
            "--size",
            "32",
            "--json",
            str(tmp_path / "x" / "s.json"),
        ]
    )
    assert json.loads((tmp_path / "x" / "s.json").read_text())["records"] == 9
    main(
        [
            "inspect",
            "--input",
            str(tmp_path / "d"),
            "--num",
            "4",
            "--out",
            str(tmp_path / "c.png"),
            "--json",
            str(tmp_path / "i.json"),
        ]
    )
    out = capsys.readouterr().out
    assert "9 records" in out
    assert "32x32" in out
    figures = json.loads((tmp_path / "i.json").read_text())
    assert "  train-0-00000" in out
    assert all(f": {caption[:40]}" in out for caption in figures["captions"])
    assert (figures["records"], figures["sizes"], len(figures["captions"])) == (9, {"32x32": 9}, 4)
    sheet = np.asarray(Image.open(tmp_path / "c.png"))
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 20

    (tmp_path / "src").mkdir()
    for i in range(3):
        (tmp_path / "src" / f"{i}.png").write_bytes(encode_png(np.full((8, 8, 3), i, np.uint8)))
    (tmp_path / "src" / "0.txt").write_text("a \x1b[31mcaption")
    (tmp_path / "src" / "1.txt").write_text("b")
    main(
        [
            "pack",
            "--input",
            str(tmp_path / "src"),
            "--out",
            str(tmp_path / "p"),
            "--shards",
            "1",
            "--json",
            str(tmp_path / "p.json"),
        ]
    )
    out = capsys.readouterr().out
    assert "2 records" in out
    assert "left out 1: no caption (such as 2)" in out
    assert json.loads((tmp_path / "p.json").read_text())["skipped"] == {"no caption": 1}
    with pytest.raises(InputError, match="--overwrite"):
        main(["pack", "--input", str(tmp_path / "src"), "--out", str(tmp_path / "p")])
    (tmp_path / "src" / "2.txt").write_text("c")
    main(["pack", "--input", str(tmp_path / "src"), "--out", str(tmp_path / "p"), "--overwrite"])
    assert len(open_records(tmp_path / "p")) == 3
    main(["inspect", "--input", str(tmp_path / "p")])
    assert "\x1b" not in capsys.readouterr().out


def test_help_has_an_example(capsys):
    main(["--help"])
    assert "example:\n  cv3jax data pack" in (overview := capsys.readouterr().out)
    for name in COMMANDS:
        with pytest.raises(SystemExit) as e:
            main([name, "--help"])
        assert e.value.code == 0
        assert f"example:\n  cv3jax data {name}" in capsys.readouterr().out
        assert f"\n  {name} " in overview


def test_bad_input(tmp_path):
    for argv, message in (
        (["inspect", "--input", str(tmp_path / "no")], "no such directory"),
        (["inspect", "--input", str(tmp_path), "--num", "0"], "--num 0"),
        (["inspect", "--input", str(tmp_path), "--out", "x.gif"], r"ends in \.png"),
        (["pack", "--input", str(tmp_path / "no"), "--out", str(tmp_path / "o")], "no source"),
        (
            ["pack", "--input", str(tmp_path), "--out", str(tmp_path / "o"), "--threads", "0"],
            "--threads 0",
        ),
        (["scenes", "--num", "0", "--out", str(tmp_path / "o")], "num = 0"),
    ):
        with pytest.raises(InputError, match=message):
            main(argv)
    for argv, message in (
        ([], "no command after data; give one of pack, build, "),
        (["nothing"], "unknown command data 'nothing'; give one of"),
        (
            ["scenes", "--num", "x", "--out", "o"],
            "--num: invalid int value: 'x'; see cv3jax data scenes --help",
        ),
    ):
        with pytest.raises(InputError, match=message):
            main(argv)


def test_json_is_checked_before_the_work(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    scenes = [
        "scenes",
        "--num",
        "2",
        "--size",
        "32",
        "--shards",
        "1",
        "--out",
        str(tmp_path / "d"),
        "--json",
    ]
    for target, message in (
        (tmp_path, "is a directory"),
        (tmp_path / "file" / "x" / "f.json", "file is a file"),
    ):
        with pytest.raises(InputError, match=f"--json .*{message}"):
            main([*scenes, str(target)])

    def refuse(**_):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with pytest.raises(InputError, match=r"--json .* cannot be written \(Permission denied\)"):
        main([*scenes, str(tmp_path / "f.json")])
    assert not (tmp_path / "d").exists()


@pytest.mark.parametrize(
    "program",
    [
        ["-m", "data_pipeline.cli", "pack"],
        ["examples/emoji/draw.py"],
        ["examples/stamps/collect.py"],
    ],
    ids=str,
)
def test_a_wrong_flag_is_one_line(program):
    done = subprocess.run(
        [sys.executable, *program, "--nothing"],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("cv3jax: ")
    assert done.stderr.endswith("--help\n")
    assert done.stderr.count("\n") == 1


def test_pack_as_a_module(tmp_path):
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "a.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    (tmp_path / "src" / "a.txt").write_text("a")
    command = [
        sys.executable,
        "-m",
        "data_pipeline.cli",
        "pack",
        "--input",
        str(tmp_path / "src"),
        "--out",
        str(tmp_path / "d"),
    ]
    done = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "1 record (" in done.stdout
    assert len(open_records(tmp_path / "d")) == 1


@pytest.fixture(scope="module")
def emoji_example():
    path = Path(__file__).parents[2] / "examples" / "emoji" / "draw.py"
    spec = importlib.util.spec_from_file_location("draw_emoji", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_emoji_captions_read_as_one_says_them(emoji_example):
    for text, name, expected in (
        ("😊", ":smiling_face_with_smiling_eyes:", "smiling face with smiling eyes"),
        ("🇫🇷", ":France:", "flag of france"),
        ("👍🏽", ":thumbs_up_medium_skin_tone:", "thumbs up, medium skin tone"),
        (
            "👩🏾‍🦱",
            ":woman_medium-dark_skin_tone_curly_hair:",
            "woman with curly hair, medium-dark skin tone",
        ),
        (
            "💏",
            ":kiss_woman_man_light_skin_tone_dark_skin_tone:",
            "kiss, woman and man, light skin tone, dark skin tone",
        ),
        ("7️⃣", ":keycap_7:", "keycap 7 button"),
        ("💋", ":kiss_mark:", "kiss mark"),
    ):
        assert emoji_example.caption_of(text, name) == expected


def test_emoji_says_which_package_has_the_font(emoji_example, tmp_path):
    with pytest.raises(InputError, match="apt-get install fonts-noto-color-emoji"):
        emoji_example.main(["--out", str(tmp_path / "o"), "--font", str(tmp_path / "none.ttf")])
    (tmp_path / "none.ttf").write_bytes(b"not a font")
    with pytest.raises(InputError, match="not a colour emoji font"):
        emoji_example.main(["--out", str(tmp_path / "o"), "--font", str(tmp_path / "none.ttf")])
    assert not (tmp_path / "o").exists()


def test_emoji_where_it_cannot_be_drawn(emoji_example, tmp_path, monkeypatch):
    monkeypatch.setattr(emoji_example, "open_font", lambda path: None)
    (tmp_path / "file").write_text("")
    for out, message in (
        (tmp_path / "file", "File exists"),
        (tmp_path / "file" / "o", "Not a directory"),
        (tmp_path, "not an empty"),
    ):
        with pytest.raises(InputError, match=f"--out .*{message}"):
            emoji_example.main(["--out", str(out)])


def test_emoji_help_says_what_the_readme_does(emoji_example):
    assert "--out runs/emoji/data" in emoji_example.__doc__
    assert "pip install -e '.[examples]'" in emoji_example.__doc__
