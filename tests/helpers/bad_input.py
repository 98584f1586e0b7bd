"""Make input that every command refuses, and check that a command refuses it in one line."""

import gc
import importlib
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_runs

from cv3jax import cli
from cv3jax.training import run as training
from data_pipeline.images.decode import encode_png


def damaged_places(at: Path) -> dict[str, Path]:
    """Make in a directory what commands refuse, and return its places by name.

    The session's runs and scenes are among them.
    """
    (at / "empty").mkdir()
    (at / "file").write_text("not a directory")
    (at / "loop").symlink_to("loop")
    for name, text in (
        ("damaged", "{"),
        ("foreign", "[]"),
        ("format", '{"format": 99}'),
        ("bare", '{"format": 2, "stages": {}}'),
    ):
        (at / name).mkdir()
        (at / name / "cascade.json").write_text(text)
    shutil.copytree(tiny_runs.trained("vae").workdir / "cascade", at / "hollow")
    shutil.rmtree(at / "hollow" / "vae")
    shutil.copytree(tiny_runs.trained("base").workdir / "cascade", at / "halved")
    description = tiny_runs.read_json(at / "halved" / "cascade.json")
    del description["sha256"]
    description["stages"]["base"]["model"]["channels"] = 32
    (at / "halved" / "cascade.json").write_text(json.dumps(description))
    for name in ("torn", "lost", "flipped", "swapped"):
        shutil.copytree(tiny_runs.scenes(), at / name)
    first, second = sorted((at / "torn").glob("*array_record*"))[:2]
    first.write_bytes(b"torn")
    (at / "lost" / second.name).unlink()
    flip(
        (at / "flipped" / first.name).read_bytes().rindex(b"PNG") + 200, at / "flipped" / first.name
    )
    shutil.copy(at / "swapped" / "features.json", at / "swapped" / "dataset_info.json")
    for stage in ("vae", "base"):  # one byte of the weights
        shutil.copytree(tiny_runs.trained(stage).workdir / "cascade", at / f"{stage}_flipped")
        flip(
            1000,
            max(
                (at / f"{stage}_flipped" / stage).rglob("d/*"), key=lambda path: path.stat().st_size
            ),
        )
    for name in ("damaged_run", "other_run"):
        shutil.copytree(tiny_runs.trained("vae").workdir, at / name)
    flip(
        1000,
        max(
            (at / "damaged_run" / "checkpoints" / "6" / "state").rglob("*"),
            key=lambda path: path.stat().st_size,
        ),
    )
    for name, files in PICTURES.items():
        (at / name).mkdir()
        for file, content in files.items():
            (at / name / file).write_bytes(content)
    (at / "recipe.py").write_text("def get_config(variant=''):\n    return undefined\n")
    (at / "broken.py").write_text("def get_config(:\n")
    unknown = (
        "from cv3jax.configs import common\n\ndef get_config(_=''):\n   "
        " common.stage_config().lock().nope = 1\n"
    )
    (at / "unknown.py").write_text(unknown)
    (at / "half.py").write_text(
        "import ml_collections\n\ndef get_config(_=''):\n    return"
        " ml_collections.ConfigDict({'seed': 0})\n"
    )
    trained = {stage: tiny_runs.trained(stage).workdir for stage in ("vae", "base")}
    return {**trained, "at": at, "scenes": tiny_runs.scenes()}


def flip(at: int, path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 255
    path.write_bytes(data)


PNG = encode_png(np.random.default_rng(0).integers(256, size=(16, 16, 3), dtype=np.uint8))
PICTURES = {  # folders of images and captions in which nothing can be used, but for what a row says
    "no_images": {"a.txt": b"a caption"},
    "no_captions": {"a.png": PNG},
    "not_an_image": {"a.png": b"GIF89a, or so it says", "a.txt": b"a caption"},
    "empty_image": {"a.png": b"", "a.txt": b"a caption"},
    "half_an_image": {"a.png": PNG[: len(PNG) // 2], "a.txt": b"a caption"},
    "flipped_image": {"a.png": PNG[:45] + bytes([PNG[45] ^ 255]) + PNG[46:], "a.txt": b"a caption"},
    "long_image": {"a.png": encode_png(np.zeros((8, 200, 3), np.uint8)), "a.txt": b"a caption"},
    "blank_caption": {"a.png": PNG, "a.txt": b" \n\t "},
    "binary_caption": {"a.png": PNG, "a.txt": b"\xff\x00\xfecaption"},
    "torn_metadata": {"a.png": PNG, "metadata.jsonl": b'{"file_name": "a.png", "capt'},
    "no_caption_field": {"a.png": PNG, "metadata.jsonl": b'{"file_name": "a.png"}\n'},
    "number_caption": {"a.png": PNG, "metadata.jsonl": b'{"file_name": "a.png", "caption": 7}\n'},
    "outside": {"metadata.jsonl": b'{"file_name": "../file", "caption": "a caption"}\n'},
    "torn_tar": {"a.tar": b"not a tar" * 100},
}


def files(directory: Path) -> dict[str, tuple[int, int]]:
    """Return every file below a directory with time and size, without Python's caches."""
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_size)
        for path in directory.rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }


def refused(command: str, argv: list[str], capsys, contains: str) -> None:
    """Run a command in this process and check for one line on stderr and exit code 2."""
    main = importlib.import_module(cli.COMMANDS[command][0]).main
    # what a test before this one left behind, and complains when it is collected, complains now
    gc.collect()
    capsys.readouterr()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "train_loop", lambda *_, **__: pytest.fail("accepted"))
        with pytest.raises(SystemExit) as e:
            cli.run_command(main, argv)
    lines = capsys.readouterr().err.replace("\r", "\n").splitlines()
    # but for a progress bar, and for what is waited for
    passing = re.compile(r"[\w ]+:.*\[\d\d:\d\d|cv3jax: .*( \.\.\.|: done in [\d.]+ s)$")
    lines = [line for line in lines if line.strip() and not passing.match(line)]
    assert e.value.code == 2, lines
    assert len(lines) == 1, lines
    assert lines[0].startswith("cv3jax: ")
    assert contains.lower() in lines[0].lower()
    assert len(lines[0]) < 600
