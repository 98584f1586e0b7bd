"""Test that bad flags of the commands with adapters end in one line and exit code 2."""

import os

import pytest
from bad_adapters import GOOD
from bad_input import refused

from cv3jax.adapters import formats

S = "--checkpoint scenes"
TO = "--to kohya --out"
EXTRACT = "--checkpoint scenes_teacher --original scenes_teacher --stage base --out {w}.safetensors"
MANY = " ".join(["--lora {good}"] * 17)

# command, arguments, what the line says
COMMANDS = [
    ("lora inspect", "", "required: --lora"),
    ("lora inspect", "--lora", "--lora: expected one argument"),
    ("lora inspect", "--lora=", "there is no such file"),
    ("lora inspect", "--lora {good} extra", "unknown argument extra"),
    ("lora inspect", "--lora {good} --stage base", "unknown flag --stage"),
    ("lora inspect", "--lora {good}:0.5", "give the file alone, without a stage or weight"),
    ("lora inspect", "--lora base={good}", "give the file alone, without a stage or weight"),
    ("lora inspect", "--lora {good} --json /proc/x", "--json /proc/x: /proc cannot be written"),
    ("lora inspect", "--lora {good} --json {at}", "is a directory; give a file"),
    ("lora inspect", MANY, "17 --lora: at most 16"),
    *(
        (command, f"--lora {{good}}:{weight} {more}", "the weight must be -100..100")
        for weight in ("nan", "inf", "-inf", "1e400", "100.5")
        for command, more in (
            ("lora merge", f"{S} --out {{w}}"),
            ("sample", f"{S} --prompt x --out {{w}}"),
            ("upscale", f"{S} --image {{picture}} --prompt x --out {{w}}"),
        )
    ),
    *(
        ("lora merge", f"{S} --out {{w}} --lora {text}", "there is no such file; give FILE,")
        for text in (":", ":1", "base=", "=", "vae={good}", "{good}/x")
    ),
    *(
        ("lora merge", f"{S} --out {{w}} --lora {{good}}:{weight}", f"'{weight}' is no number")
        for weight in ("", "x")
    ),
    ("lora merge", f"{S} --out {{w}} --lora {{good}}:0", "every --lora has the weight 0"),
    ("lora merge", f"{S} --out {{w}}", "required: --lora"),
    ("lora merge", "--lora {good} --out {w}", "required: --checkpoint"),
    ("lora merge", f"{S} --lora {{good}}", "required: --out"),
    ("lora merge", f"{S} --lora {{good}} --out=", "--out: the path is empty"),
    ("lora merge", f"{S} --lora {{good}} --out {{at}}", "exists already; give a new directory"),
    ("lora merge", f"{S} --lora {{good}} --out {{good}}", "exists already"),
    ("lora merge", f"{S} --lora {{good}} --out {{good}}/x", "is a file; give a directory"),
    ("lora merge", f"{S} --lora {{good}} --out /proc/x", "/proc cannot be written"),
    ("lora merge", f"{S} --lora {{good}} --out {{loop}}", "Too many levels of symbolic links"),
    ("lora merge", f"{S} --lora {{good}} --out {{loop}}/x", "Too many levels of symbolic links"),
    ("lora merge", "--checkpoint {at}/none --lora {good} --out {w}", "is not a checkpoint"),
    ("lora merge", "--checkpoint {good} --lora {good} --out {w}", "is not a checkpoint"),
    ("lora merge", "--checkpoint {loop} --lora {good} --out {w}", "is not a checkpoint"),
    ("lora convert", "--lora {good} --out {w}.safetensors", "required: --to"),
    ("lora convert", "--lora {good} --to x --out {w}.safetensors", "invalid choice: 'x'"),
    ("lora convert", f"--lora {{good}} {TO} {{w}}", "ends with .safetensors"),
    ("lora convert", f"--lora {{good}} {TO} {{w}}.bin", "ends with .safetensors"),
    ("lora convert", f"--lora {{good}} {TO} {{at}}", "is a directory; give a file"),
    ("lora convert", f"--lora {{good}} {TO} {{good}}/x.safetensors", "is a file, not a directory"),
    ("lora convert", f"--lora {{good}} {TO} /proc/x.safetensors", "/proc cannot be written"),
    ("lora convert", f"--lora {{good}} {TO} {{loop}}", "Too many levels of symbolic links"),
    ("lora convert", "--lora {good} --to peft --out {loop}", "Too many levels of symbolic links"),
    ("lora convert", "--lora {good} --to peft --out {at}", "exists already"),
    ("lora convert", "--lora {good} --to peft --out {good}", "exists already"),
    ("lora convert", f"--lora {{good}} --lora {{good}} {TO} {{w}}.safetensors", "2 --lora: give 1"),
    ("lora convert", f"--lora {{good}} --stage vae {TO} {{w}}.safetensors", "invalid choice"),
    ("lora compare", "--lora {good}", "1 --lora: give 2"),
    ("lora compare", "--lora {good} --lora {good} --lora {good}", "3 --lora: give 2"),
    ("lora compare", "--lora {good} --lora {good} --stage base", "--stage needs --checkpoint"),
    ("lora compare", f"{S} --lora {{good}} --lora {{good}} --stage vae", "invalid choice: 'vae'"),
    *(
        ("lora extract", f"{EXTRACT} --rank={rank}", f"--rank {rank}: must be 1..8192")
        for rank in ("0", "-1", "8193")
    ),
    *(
        ("lora extract", f"{EXTRACT} --rank={rank}", f"invalid int value: '{rank}'")
        for rank in ("", "x", "1e3", "nan")
    ),
    *(
        ("lora extract", f"{EXTRACT} --energy={share}", "must be above 0 and at most 1")
        for share in ("0", "-1", "1.1", "nan", "inf")
    ),
    ("lora extract", f"{EXTRACT} --energy=much", "invalid float value: 'much'"),
    ("lora extract", EXTRACT.replace("base", "vae"), "invalid choice: 'vae'"),
    ("lora extract", EXTRACT.replace(".safetensors", ""), "ends with .safetensors"),
    ("lora extract", EXTRACT.replace("--stage base ", ""), "required: --stage"),
    ("lora extract", EXTRACT.replace("--original scenes_teacher", ""), "required: --original"),
    ("lora extract", EXTRACT, "have the same weights, so there is nothing to extract"),
    (
        "lora extract",
        EXTRACT.replace("--original scenes_teacher", "--original scenes"),
        "are of different models",
    ),
    (
        "lora extract",
        EXTRACT.replace("--original scenes_teacher", "--original {good}"),
        "is not a checkpoint",
    ),
    ("sample", f"{S} --prompt x --out {{w}} {MANY}", "17 --lora: at most 16"),
    ("sample", f"{S} --prompt x --out {{w}} --lora=", "there is no such file"),
    ("upscale", f"{S} --image {{picture}} --prompt x --out {{w}} --lora none", "no such file"),
    ("upscale", f"{S} --image {{picture}} --prompt x --out {{loop}}", "Too many levels of symbol"),
    ("upscale", f"{S} --image {{loop}} --prompt x --out {{w}}", "there is no such file"),
    ("serve", f"{S} --lora-dir", "--lora-dir: expected one argument"),
    ("serve", f"{S} --lora-dir=", "--lora-dir: the path is empty"),
    ("serve", f"{S} --lora-dir {{at}}/none", "there is no such folder"),
    ("serve", f"{S} --lora-dir {{good}}", "there is no such folder"),
    ("serve", f"{S} --lora-dir {{loop}}", "there is no such folder"),
    ("serve", f"{S} --lora-dir {{nothing}}", "has neither NAME.safetensors nor a folder"),
    ("serve", f"{S} --lora-dir {{many}}", "has 65 adapters, and may have 64"),
    *(
        ("serve", f"{S} --lora-sets={count}", f"--lora-sets {count}: give 1..1000")
        for count in ("0", "-1", "1001")
    ),
    ("serve", f"{S} --lora-sets=x", "invalid int value: 'x'"),
]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """Make the files and folders that the rows name."""
    at = tmp_path_factory.mktemp("flags")
    formats.write(at / "good.safetensors", GOOD, "native")
    (at / "loop.safetensors").symlink_to("loop.safetensors")
    (at / "picture.png").write_bytes(b"\x89PNG")
    (at / "nothing").mkdir()
    (at / "many").mkdir()
    for number in range(65):
        (at / "many" / f"{number}.safetensors").touch()
    return {
        "at": at,
        "good": at / "good.safetensors",
        "loop": at / "loop.safetensors",
        "picture": at / "picture.png",
        "nothing": at / "nothing",
        "many": at / "many",
    }


@pytest.mark.parametrize(
    ("command", "line", "contains"), COMMANDS, ids=lambda x: x.replace("{", "").replace("}", "")
)
def test_a_bad_flag(command, line, contains, places, tmp_path, capsys):
    argv = [word for word in line.format(**places, w=tmp_path / "w").split(" ") if word]
    before = sorted(os.listdir(places["at"]))
    refused(command, argv, capsys, contains)
    assert os.listdir(tmp_path) == []
    assert sorted(os.listdir(places["at"])) == before
