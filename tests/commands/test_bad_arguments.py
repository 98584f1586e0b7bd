"""Test that bad arguments of every command end in one line and exit code 2.

The line names the argument and what would be right. Nothing is written and there is no traceback.
"""

import pytest
from bad_input import damaged_places, files, refused


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Make the directories and files that the rows below name."""
    return damaged_places(tmp_path_factory.mktemp("bad"))


# command, arguments, what the line says
COMMANDS = [
    (
        "train",
        "--config=scenes_vea --workdir {w}",
        "unknown recipe 'scenes_vea' (nearest: scenes_vae); give a .py file or one of base_256",
    ),
    ("train", "--config=scenes_vae:small --workdir {w}", "unknown variant 'small'"),
    ("train", "--config={at}/none.py --workdir {w}", "there is no such file; give a recipe's name"),
    ("train", "--config={at}/recipe.py --workdir {w}", "undefined"),
    ("train", "--config={at}/broken.py --workdir {w}", "broken.py"),
    ("train", "--config={at}/unknown.py --workdir {w}", 'unknown.py: Key "nope" does not exist'),
    ("train", "--config={at}/half.py --workdir {w}", "half.py"),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {w} --lr 3",
        "unknown flag --lr: it is a field of the recipe, so give --config.optim.lr. See",
    ),
    ("train", "--config=scenes_vae:tiny --workdir {w} extra", "unknown argument"),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {at}/file --config.data.path={scenes}",
        "{at}/file",
    ),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {at}/file/below --config.data.path={scenes}",
        "{at}/file",
    ),
    ("train", "--config=scenes_vae:tiny", "--workdir"),
    ("train", "--workdir {w}", "--config"),
    (
        "train",
        "--config=scenes_vae:tiny --workdir /proc/none/w --config.data.path={scenes}",
        "--workdir /proc/none/w: /proc cannot be written",
    ),
    # found before what else is wrong, and so before any work
    ("sample", "--checkpoint {at}/none --prompt x --out /proc/none", "/proc cannot be written"),
    ("sample", "--checkpoint {at}/none --prompt x --out {w} --json /proc/x", "/proc cannot be"),
    ("convert", "--vae {at}/none --out /proc/none", "--out /proc/none: /proc cannot be written"),
    ("compile", "--config=none --topology v5e:1 --json /proc/x", "--json /proc/x: /proc cannot"),
    ("distill", "--config=none --workdir {w} --json /proc/x", "--json /proc/x: /proc cannot"),
    ("quickstart", "--workdir /proc/none", "--workdir /proc/none: /proc cannot be written"),
    (
        "data encode",
        "--config=none --input {at}/none --checkpoint {at}/none --out /proc/none",
        "--out /proc/none: /proc cannot be written",
    ),
    (
        "data",
        "inspect --input {at}/none --out /proc/x.png",
        "--out /proc/x.png: /proc cannot be written",
    ),
    ("data", "inspect --input {at}/none --json /proc/x", "--json /proc/x: /proc cannot be written"),
    ("data", "scenes --num 1 --out /proc/none", "--out /proc/none: /proc cannot be written"),
    ("data", "scenes --num 1 --out /proc --overwrite", "a disk is mounted there"),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {w} --resume-from=6 --config.data.path={scenes}",
        "checkpoints has no checkpoint",
    ),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {w} --resume-from=last",
        "--resume-from: invalid int value: 'last'",
    ),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {at}/other_run --config.data.path={scenes}",
        "holds a run with other values of",
    ),
    (
        "train",
        "--config=scenes_vae:tiny --workdir {at}/damaged_run --config.data.path={scenes}",
        "checkpoints/6 is damaged: state/",
    ),
    ("sample", "--checkpoint {at}/none --prompt x --out {w}", "is not a checkpoint"),
    ("sample", "--checkpoint {at}/damaged --prompt x --out {w}", "is damaged"),
    ("sample", "--checkpoint {at}/bare --prompt x --out {w}", "has no vae"),
    ("sample", "--checkpoint {vae} --prompt x --out {w}", "has no base stage"),
    ("sample", "--checkpoint {at}/halved --prompt x --out {w}", "stored arrays have 16"),
    (
        "sample",
        "--checkpoint {at}/base_flipped --prompt x --out {w}",
        "base_flipped/base is damaged: ",
    ),
    ("sample", "--checkpoint {base} --prompt {long} --out {w}", "--prompt 'xxxxx"),
    ("sample", "--checkpoint {base} --out {w}", "--prompt"),
    ("sample", "--checkpoint {base} --prompt= --out {w}", "--prompt"),
    ("sample", "--checkpoint {base} --prompt {blank} --out {w}", "--prompt"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --steps 0", "--steps 0"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --steps 2,2,2", "--steps 2,2,2"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --steps few", "--steps few"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --guidance nan", "--guidance nan"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --guidance=-1", "--guidance -1"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size 33", "size 33"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size 96", "it has no relay stage"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size 0", "size 0"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size -32", "size -32"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --size big", "--size"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --num 0", "--num 0"),
    (
        "sample",
        "--checkpoint {base} --prompt x --out {w} --attention splash",
        "'splash' does not run on cpu",
    ),
    ("sample", "--checkpoint {base} --prompt x --out {w} --num two", "--num"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --seed -1", "--seed -1"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --seed 4294967296", "--seed 4294967296"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --seed 4294967295 --num 2", "4294967294"),
    ("sample", "--checkpoint {base} --prompt x --out {at}/file", "is a file"),
    ("sample", "--checkpoint {base} --prompt x --out {at}/file/below", "{at}/file"),
    ("sample", "--checkpoint {base} --prompt x --out {w} --json {at}/empty", "{at}/empty"),
    ("sample", "--checkpoint {base} --prompt x", "--out"),
    ("quickstart", "--workdir {w} --seed -1", "--seed -1"),
    ("quickstart", "--workdir {at}/file", "{at}/file"),
    ("data", "inspect --input {at}/none", "no such directory"),
    ("data", "inspect --input {at}/torn", "shard"),
    ("data", "inspect --input {at}/lost", "is missing; restore the file"),
    ("data", "inspect --input {at}/flipped --num 64", "is damaged"),
    ("data", "pack --input {at}/none --out {w}", "no source"),
    *(
        ("data", f"pack --input {{at}}/{name} --out {{w}}", line)
        for name, line in (
            ("no_images", "no"),
            ("no_captions", "caption"),
            ("not_an_image", "unsupported format GIF"),
            ("empty_image", "undecodable"),
            ("half_an_image", "undecodable"),
            ("flipped_image", "undecodable"),
            ("long_image", "200x8 pixels"),
            ("blank_caption", "caption"),
            ("binary_caption", "text"),
            ("torn_metadata", "json"),
            ("no_caption_field", "caption"),
            ("number_caption", "caption"),
            ("outside", "outside"),
            ("torn_tar", "tar"),
        )
    ),
    ("data", "scenes --num 0 --out {w}", "num = 0"),
    ("data", "scenes --num 1 --size 4 --out {w}", "size = 4"),
    ("data", "scenes --num 1 --out {at}/file", "is a file"),
    *(
        (command, line, "Too many levels of symbolic links; give another path")
        for command, line in (
            ("train", "--config=scenes_vae:tiny --workdir {at}/loop --config.data.path={scenes}"),
            ("sample", "--checkpoint {base} --prompt x --out {at}/loop"),
            ("quickstart", "--workdir {at}/loop"),
        )
    ),
    *(
        ("data", f"{line} --out {{at}}/loop", "is a link; give the directory that it points to")
        for line in (
            "scenes --num 1",
            "recaption --input {scenes} --endpoint http://127.0.0.1:9 --model x",
        )
    ),
]


@pytest.mark.parametrize(
    ("command", "line", "contains"), COMMANDS, ids=lambda x: x.replace("{", "").replace("}", "")
)
def test_a_bad_argument(command, line, contains, places, tmp_path, capsys):
    words = {"{blank}": "  \t", "{long}": "x" * 5000}
    names = {**places, "w": tmp_path / "w", "blank": "{blank}", "long": "{long}"}
    argv = [words.get(word, word) for word in line.format(**names).split(" ")]
    before = files(places["at"])
    refused(command, argv, capsys, contains.format(**names))
    assert list(tmp_path.iterdir()) == []
    assert files(places["at"]) == before
