"""Test that a directory of pictures has one plan, and that conflicting calls are refused."""

import golden_models
import pytest
from painter import LINES, contents

from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.commands import sample
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError


@pytest.mark.parametrize(
    ("flags", "prompts", "line"),
    [
        (
            ["--seed", "8"],
            "p.txt",
            "holds pictures made with other values of seed; give those values",
        ),
        (
            ["--seed", "7", "--steps", "5"],
            "p.txt",
            "5 steps for the base stage: this stage was distilled to 4 and works with no other",
        ),
        (["--seed", "7", "--guidance", "3"], "p.txt", r"other values of base\.guidance;"),
        # it takes the relay too
        (
            ["--seed", "7", "--size", "64"],
            "p.txt",
            r"other values of checkpoint, relay, size;",
        ),
        (["--seed", "7"], "q.txt", r"other values of prompts;"),
    ],
)
def test_another_plan_in_the_same_directory(flags, prompts, line, paint, whole, tmp_path):
    (tmp_path / "q.txt").write_text("\n".join([*LINES[:-1], "something else"]))
    with pytest.raises(InputError, match=line):
        paint("whole", *flags, prompts=prompts)
    assert contents(tmp_path / "whole") == whole


def test_settings_that_are_the_checkpoint_s_are_the_same_plan(paint, whole):
    assert (
        paint("whole", "--seed", "7", "--batch", "3", "--process-id", "1", "--num-processes", "2")[
            "made"
        ]
        == 0
    )


def test_directories_that_it_does_not_touch(paint, whole, tmp_path):
    out, name = tmp_path / "whole", min(whole)
    (out / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json is damaged"):
        paint("whole", "--seed", "7")
    (out / "plan.json").unlink()
    with pytest.raises(InputError, match=f"has {name} but no plan.json that says how it was made"):
        paint("whole", "--seed", "7")
    with (
        locks.hold(tmp_path / "new" / ".part_0_of_1"),
        pytest.raises(InputError, match="is in use by process"),
    ):
        paint("new", "--seed", "7")
    assert not (tmp_path / "new").exists()
    with pytest.raises(
        InputError, match="the last of 11 pictures would have a seed above 4294967295"
    ):
        paint("new", "--seed", str(2**32 - 5))
    assert not (tmp_path / "new").exists()
    assert contents(out).keys() == whole.keys() - {"plan.json"}


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--prompt", "x"], "not allowed with argument --prompt"),
        (["--image", "x.png"], "--image needs --prompt"),
        (["--noise", "x.npz"], "--noise needs --prompt"),
        (["--batch", "0"], r"--batch 0: must be 1\.\.65536"),
    ],
)
def test_flags_that_do_not_go_together(flags, line, paint, tmp_path):
    with pytest.raises(InputError, match=line):
        paint("out", *flags)
    with pytest.raises(InputError, match="--process-id needs --prompts"):
        sample.main(
            [
                "--checkpoint",
                "c",
                "--prompt",
                "x",
                "--out",
                str(tmp_path / "out"),
                "--process-id",
                "0",
                "--num-processes",
                "2",
            ]
        )
    assert not (tmp_path / "out").exists()


def test_a_changed_checkpoint_is_another_plan(tmp_path):
    for name in ("a", "b"):
        cascade_at = tmp_path / name / "t5"
        cascade_at.parent.mkdir()
        for entry in golden_models.converted("micro").iterdir():
            target = tmp_path / name / entry.name
            target.symlink_to(entry)
    parts = ("vae", "t5", "base")
    ours = parts_fingerprint(tmp_path / "a", parts)
    assert (
        ours
        == parts_fingerprint(tmp_path / "b", parts)
        != parts_fingerprint(tmp_path / "a", (*parts, "relay"))
    )
    (tmp_path / "b" / "base").unlink()
    (tmp_path / "b" / "base").mkdir()
    manifest = golden_models.converted("micro") / "base" / "manifest.json"
    (tmp_path / "b" / "base" / "manifest.json").write_text(
        manifest.read_text().replace("0", "1", 1)
    )
    assert parts_fingerprint(tmp_path / "b", parts) != ours
