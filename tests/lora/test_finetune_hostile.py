"""Test that bad flags, fields and pictures of `cv3jax finetune` end in one line and exit code 2."""

import os
import shutil

import pytest
from bad_input import PICTURES, PNG, refused

from cv3jax.lora import run as running

C = "--config=scenes_lora"
S = "--checkpoint scenes_teacher"
P = "--pictures {pictures}"
W = "--workdir {w}"
ALL = f"{C} {S} {P} {W}"

# arguments, what the line says
FLAGS = [
    (f"{S} {P} {W}", "required: --config"),
    (f"{C} {P} {W}", "required: --checkpoint"),
    (f"{C} {S} {W}", "required: --pictures"),
    (f"{C} {S} {P}", "required: --workdir"),
    (f"{ALL} extra", "unknown argument extra"),
    (f"{ALL} --rank 3", "unknown flag --rank: it is a field of the recipe, so give --config."),
    (f"{ALL} --resume-from=x", "--resume-from: invalid int value: 'x'"),
    (f"{ALL} --json /proc/x", "--json /proc/x: /proc cannot be written"),
    (f"--config=scenes_base {S} {P} {W}", "trains a whole stage"),
    (f"--config=nothing {S} {P} {W}", "unknown recipe 'nothing'"),
    (f"--config={{loop}} {S} {P} {W}", "unknown recipe"),
    (f"{C} --checkpoint {{loop}} {P} {W}", "is not a checkpoint"),
    (f"{C} --checkpoint {{pictures}} {P} {W}", "is not a checkpoint"),
    (f"{C} --checkpoint scenes {P} {W}", "is distilled"),
    (f"{C} {S} --pictures= {W}", "--pictures: the path is empty"),
    (f"{C} {S} --pictures {{loop}} {W}", "is no folder; give a folder of pictures"),
    (f"{C} {S} --pictures /dev/zero {W}", "is no folder"),
    (f"{C} {S} --pictures {{pictures}}/none {W}", "is no folder"),
    (f"{C} {S} {P} --workdir {{pictures}}/w", "is inside --pictures"),
    (f"{C} {S} {P} --workdir {{loop}}", "Too many levels of symbolic links"),
    (f"{C} {S} {P} --workdir {{loop}}/w", "Too many levels of symbolic links"),
    (f"{C} {S} {P} --workdir /dev/null", "is a file; give a directory"),
    (f"{C} {S} {P} --workdir /dev/null/w", "is a file; give a directory"),
    (f"{C} {S} {P} --workdir /proc/w", "/proc cannot be written"),
]
# fields of the recipe, what the line says
FIELDS = [
    *(("lora.rank=" + rank, "must be 1..1024") for rank in ("0", "-1", "1025")),
    *(("lora.rank=" + rank, "must be of type int") for rank in ("x", "1e9", "nan")),
    *(("lora.alpha=" + alpha, "must be above 0") for alpha in ("0", "-1", "nan", "inf")),
    *(("lora.dropout=" + p, "must be at least 0 and below 1") for p in ("1", "-.1", "nan")),
    *(("lora.targets=" + t, "must be one or more of attention") for t in ("", ",")),
    *(("lora.targets=" + t, "is no layer of this model") for t in ("[", "\x1b[2J", "attn,*")),
    *(
        (f"{field}=maybe", "must be True or False")
        for field in ("lora.dora", "lora.rslora", "pictures.cache", "objective.masked")
    ),
    ("lora.base_dtype=int4", "must be one of computed, int8"),
    ("lora.nothing=1", "has no field 'lora.nothing'"),
    *(("pictures.repeats=" + n, "must be 1..1000") for n in ("0", "1001")),
    *((f"pictures.{name}=a\nb", "must be one line of at") for name in ("trigger", "class_prompt")),
    *(("pictures.class_pictures=" + n, "must be 1..100000") for n in ("0", "-1", "100001")),
    *(("pictures.prior_weight=" + x, "must be 0.01..100") for x in ("0", "nan", "-1", "inf")),
    ("optim.lr=nan", "must be above 0"),
    ("train.steps=0", "must be at least 1"),
    ("batch.size=0", "must be at least 1"),
    ("seed=-1", "must be 0..2147483647"),
    ("model.channels=32", "its base differs from config.model"),
    ("data.path=/none", "no records at /none"),
]


def link(target):
    return lambda path: path.symlink_to(target)


def put(data):
    return lambda path: path.write_bytes(data)


# what is in the folder of pictures → what makes it, what the line says
FOLDERS = {
    **{
        name: ({file: put(data) for file, data in PICTURES[name].items()}, says)
        for name, says in (
            ("no_images", "has no pictures"),
            ("no_captions", "has no caption"),
            ("not_an_image", "a.png cannot be read: unsupported format GIF"),
            ("empty_image", "a.png cannot be read"),
            ("half_an_image", "a.png cannot be read: damaged image data"),
            ("flipped_image", "a.png cannot be read: damaged image data"),
            ("long_image", "longer than 8:1; crop it"),
            ("blank_caption", "a.txt is empty; write the picture's caption"),
            ("binary_caption", "a.txt: it is not UTF-8"),
            ("outside", "has no pictures"),
            ("torn_tar", "has no pictures"),
        )
    },
    "pipe for a picture": ({"r/a.png": put(PNG), "r/b.png": os.mkfifo}, "r/b.png cannot be read"),
    "pipe for a caption": ({"r/a.png": put(PNG), "r/a.txt": os.mkfifo}, "r/a.txt: "),
    "device for a picture": ({"a.png": link("/dev/zero"), "a.txt": put(b"x")}, "a.png cannot be"),
    "device for a caption": ({"a.png": put(PNG), "a.txt": link("/dev/zero")}, "outside the source"),
    "folder for a picture": ({"a.png": os.mkdir}, "has no pictures"),
    "loop for a picture": ({"r/b.png": link("b.png")}, "Symlink loop"),
    "link to a folder": ({"r/a.png": put(PNG), "r/b": link("..")}, "links to folders are not"),
    "link outside": ({"r/a.png": link("/etc/hostname")}, "a.png cannot be read"),
    "huge caption": ({"r/a.png": put(PNG), "r/a.txt": put(b"x" * 2**21)}, "a.txt: too large"),
    "long caption": ({"r/a.png": put(PNG), "r/a.txt": put(b"x" * 9999)}, "has 9,999 characters"),
    "no repeats": ({"0_red/a.png": put(PNG)}, "occur 0 times in an epoch; give a number in"),
    "many repeats": ({"9999999999_red/a.png": put(PNG)}, "occur 9999999999 times in an epoch"),
    "control characters": ({"0_\x1b[2J\n\u202e/a.png": put(PNG)}, r"0_\x1b[2J\n\u202e: its name"),
    "no UTF-8": ({os.fsdecode(b"3_\xff/a.png"): put(PNG)}, "is not valid UTF-8; rename it"),
}


@pytest.fixture(autouse=True)
def _untrained(monkeypatch):
    monkeypatch.setattr(running, "run", lambda *_, **__: pytest.fail("accepted"))


@pytest.fixture
def places(tmp_path):
    """Make the paths that the rows name, and return them by name."""
    (tmp_path / "in" / "3_red_kite").mkdir(parents=True)
    (tmp_path / "in" / "3_red_kite" / "a.png").write_bytes(PNG)
    (tmp_path / "loop").symlink_to("loop")
    return {"pictures": tmp_path / "in", "loop": tmp_path / "loop", "w": tmp_path / "w"}


def named(value):
    return value.replace("{", "").replace("}", "")[:60].encode("unicode_escape").decode()


@pytest.mark.parametrize(("line", "contains"), FLAGS, ids=named)
def test_a_bad_flag(line, contains, places, tmp_path, capsys):
    refused("finetune", line.format(**places).split(" "), capsys, contains)
    assert sorted(os.listdir(tmp_path)) == ["in", "loop"]


@pytest.mark.parametrize(("field", "contains"), FIELDS, ids=named)
def test_a_bad_field(field, contains, places, tmp_path, capsys):
    argv = [*ALL.format(**places).split(" "), f"--config.{field}"]
    refused("finetune", argv, capsys, contains)
    assert sorted(os.listdir(tmp_path)) == ["in", "loop"]


@pytest.mark.parametrize("name", FOLDERS)
def test_a_bad_folder_of_pictures(name, places, capsys):
    files, contains = FOLDERS[name]
    shutil.rmtree(places["pictures"])
    places["pictures"].mkdir()
    for file, make in files.items():
        path = places["pictures"] / file
        path.parent.mkdir(exist_ok=True)
        make(path)
    refused("finetune", ALL.format(**places).split(" "), capsys, contains)
    assert not (places["w"] / "checkpoints").exists()
