"""Test that every wrong file of an adapter is one line and exit code 2, and nothing is written."""

import dataclasses

import bad_adapters
import pytest
from bad_adapters import CASES, GOOD

from cv3jax import cli
from cv3jax.adapters import formats
from cv3jax.checkpoints import cascades
from cv3jax.commands import lora_inspect, lora_merge


def refused(command, argv, capsys) -> str:
    with pytest.raises(SystemExit) as e:
        cli.run_command(command, argv)
    out, err = capsys.readouterr()
    assert (e.value.code, out) == (2, "")
    assert err.count("\n") == 1
    assert len(err) < 1500
    return err


def test_the_file_that_they_alter_is_right(tmp_path):
    for format in ("kohya", "native", "diffusers", "peft"):
        formats.write(tmp_path / format, GOOD, format)
        lora_inspect.main(["--lora", str(tmp_path / format)])
    assert len(CASES) >= 65


@pytest.mark.parametrize("name", CASES)
def test_a_bad_file_is_one_line(name, tmp_path, capsys):
    write, said = CASES[name]
    (tmp_path / "in").mkdir()
    path = write(tmp_path / "in")
    argv = ["--checkpoint", "scenes", "--lora", str(path), "--out", str(tmp_path / "out")]
    err = refused(lora_merge.main, argv, capsys)
    assert said in err
    assert str(path) in err or said in ("there is no such file",)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["in"]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ("--lora {good}:0", "every --lora has the weight 0, so nothing would change"),
        ("--lora {good}:200", "the weight must be -100..100"),
        ("--lora relay={relay}", "is for the relay"),
    ],
)
def test_wrong_flags_of_merging(flags, said, tmp_path, capsys):
    formats.write(tmp_path / "good", GOOD, "native")
    argv = ["--checkpoint", "scenes", "--out", str(tmp_path / "out")]
    given = flags.format(good=tmp_path / "good", relay=tmp_path / "good").split()
    if "relay=" in flags:  # which a checkpoint without a relay lacks
        directory, known = cascades.read_cascade("scenes")
        (tmp_path / "c").mkdir()
        for part in ("vae", "t5", "base"):
            cascades.carry_part(directory / part, tmp_path / "c" / part)
        stages = {"base": known.stages["base"]}
        cascades.write_cascade(tmp_path / "c", dataclasses.replace(known, stages=stages))
        argv[1] = str(tmp_path / "c")
    assert said in refused(lora_merge.main, [*argv, *given], capsys)
    assert not (tmp_path / "out").exists()


def test_names_from_a_file_do_not_reach_the_terminal(tmp_path, capsys):
    write, _ = bad_adapters.altered(
        bad_adapters.put("lora_unet_\x1b[2J\u202e.wrong", bad_adapters.ZEROS), ""
    )
    path = write(tmp_path)
    err = refused(lora_inspect.main, ["--lora", str(path)], capsys)
    assert "\x1b" not in err
    assert "\u202e" not in err
    assert r"lora_unet_\x1b[2J\u202e.wrong" in err
