"""Test `cv3jax finetune` from a folder to a run that is stopped, refused, resumed and tried."""

import io
import os
import shlex
import shutil
import signal
import sys
from pathlib import Path

import lora_runs
import numpy as np
import pytest
import tiny_runs
from picture_folders import put
from PIL import Image
from states import assert_equal, leaves, named_leaves
from test_lora_stage import without

from cv3jax.adapters import formats
from cv3jax.adapters.trees import to_tree
from cv3jax.checkpoints import cascades, runs
from cv3jax.commands import finetune, sample
from cv3jax.lora.stage import LoraStage
from cv3jax.training import run as training
from cv3jax.training.changes import read_history
from cv3jax.training.over_time import ROWS, SHEET, name_of
from cv3jax.training.previews import base_preview
from data_pipeline.io.errors import InputError, StoppedError
from data_pipeline.records.records import open_records

STEPS, STOP = 4, 3
FIELDS = (
    *tiny_runs.ALONE,
    f"train.steps={STEPS}",
    "train.save_every=2",
    "train.preview_every=2",
    "data.min_side=32",
    "data.zoom=(1.0,1.0)",
    "lora.targets=attention",
    "optim.warmup=4",
    "optim.lr=3.0",
    "optim.ema=0.0",
)


def command(place: Path, *fields: str) -> list[str]:
    """Return the arguments of the command on the folder `place`/in, in the workdir `place`/w."""
    apart = ("--config.cascade=", "--config.data.path=")
    given = lora_runs.argv(place / "w", *FIELDS, *fields)
    given = [one for one in given if not one.startswith(apart)]
    base = str(tiny_runs.trained("base").workdir)
    return [*given, "--checkpoint", base, "--pictures", str(place / "in")]


def finetuned(place: Path, *fields: str) -> None:
    argv = command(place, *fields)  # which may train the base
    with tiny_runs.devices(1):
        finetune.main(argv)


def contents(place: Path) -> dict[Path, bytes]:
    """Return the bytes of all files that a run has, but not of its lock."""
    files = [path for path in place.rglob("*") if path.is_file() and path.name[0] != "."]
    return {path: path.read_bytes() for path in files}


def ema_of(adapter: Path) -> dict:
    """Return the adapter of a workdir as leaves."""
    _, description = cascades.read_cascade(tiny_runs.trained("base").workdir)
    return named_leaves(without(to_tree(formats.read(adapter), description.stages["base"])))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return the place of a folder of pictures, one of them too small."""
    place = tmp_path_factory.mktemp("newcomer")
    for i in range(6):
        put(place / "in" / "3_red_kite" / f"{i}.png", i)
    put(place / "in" / "3_red_kite" / "small.png", 9, side=20)
    return place


@pytest.fixture(scope="module")
def stopped(place):
    """Return (the place, the newest checkpoint at each export, stderr) of a stopped run."""
    seen = []
    publish, step_of = training.publish, LoraStage.step

    def watched(stage, ema, workdir, folder="cascade"):
        seen.append(runs.steps(workdir / "checkpoints")[-1])
        return publish(stage, ema, workdir, folder)

    def step(self, state, batch):
        if int(np.asarray(state.step)) + 1 == STOP:
            signal.raise_signal(signal.SIGINT)
        return step_of(self, state, batch)

    tiny_runs.trained("base")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "publish", watched)
        patch.setattr(LoraStage, "step", step)
        said = patch.setattr(sys, "stderr", io.StringIO()) or sys.stderr
        with pytest.raises(StoppedError):
            finetuned(place)
    return place, seen, said.getvalue()


def test_a_stopped_run_has_the_adapter_of_its_last_checkpoint(stopped):
    place, seen, _ = stopped
    assert seen == [2, STOP]  # never newer than the checkpoint
    ours, theirs = ema_of(place / "w"), leaves(place / "w", STOP)
    theirs = {name[4:]: x for name, x in theirs.items() if name.startswith("ema/")}
    assert_equal(ours, theirs)


def test_what_is_said_is_said_once_and_true(stopped):
    place, _, said = stopped
    assert said.count("left out") == 1
    assert "pictures: 1 of 7 pictures are left out" in said
    assert "pictures: 6 pictures, which an epoch has 18 times in all" in said
    assert "config.optim.warmup = 4: of 4 steps, none reaches the learning rate" in said
    assert f"--lora {place / 'w'} --prompt 'red kite'" in said


def test_the_first_row_of_the_sheet_is_the_base_itself(stopped, tmp_path):
    place, *_ = stopped
    (row,) = (place / "w" / "previews" / ROWS).glob(f"*/{name_of(0)}")
    drawn = np.asarray(Image.open(row)).astype(int)
    data = f"data.path={place / 'w' / 'pictures'}"
    made = lora_runs.alone(tmp_path, *FIELDS, data)
    base = made.cascade_of_stage.with_params("base", made._aside["base"])
    wanted = base_preview(base, made._settings, made._records).pictures
    wanted = np.concatenate(list(wanted), axis=1).astype(int)
    assert np.abs(drawn - wanted).max() <= 1
    after = np.asarray(Image.open(row.with_name(name_of(2)))).astype(int)
    assert np.abs(after - wanted).max() > 1
    sheet = Image.open(place / "w" / "previews" / SHEET)
    assert sheet.height // drawn.shape[0] >= 2


@pytest.mark.parametrize(
    ("change", "fields", "says"),
    [
        (None, ["lora.rank=3"], "holds a run with other values of lora.rank"),
        (None, ["data.image_size=16"], "holds a run with other values of data.image_size"),
        (None, ["pictures.trigger=zwx"], "holds a run with other values of pictures.trigger"),
        (lambda folder: put(folder / "new.png", 50), [], "had 7 pictures, and now has 8; give"),
        (lambda folder: put(folder / "1.png", 51), [], "captions or repeats have changed; give"),
    ],
)
def test_another_run_is_refused_before_its_data_are_touched(
    stopped, tmp_path, change, fields, says
):
    shutil.copytree(stopped[0] / "in", tmp_path / "in")
    shutil.copytree(stopped[0] / "w", tmp_path / "w")
    for path in (stopped[0] / "in").rglob("*.png"):
        shutil.copystat(path, tmp_path / "in" / path.relative_to(stopped[0] / "in"))
    if change:
        change(tmp_path / "in" / "3_red_kite")
    before = contents(tmp_path / "w")
    with pytest.raises(InputError) as e:
        finetuned(tmp_path, *fields)
    assert says in str(e.value)
    assert "(the content of" not in str(e.value)
    assert "\n" not in str(e.value)
    assert contents(tmp_path / "w") == before


def test_other_pictures_are_taken_where_that_is_allowed(stopped, tmp_path):
    shutil.copytree(stopped[0] / "in", tmp_path / "in")
    shutil.copytree(stopped[0] / "w", tmp_path / "w")
    put(tmp_path / "in" / "3_red_kite" / "new.png", 50)
    argv = [*command(tmp_path, "train.steps=5"), "--allow-changed", "data.path"]
    with tiny_runs.devices(1):
        finetune.main(argv)
    assert len(open_records(tmp_path / "w" / "pictures")) == 8
    assert [one["field"] for one in read_history(tmp_path / "w")] == ["data.path"]


def test_resumed_it_ends_with_one_row_before_and_a_command_that_draws(stopped, capsys):
    place, *_ = stopped
    (row,) = (place / "w" / "previews" / ROWS).glob(f"*/{name_of(0)}")
    drawn = row.read_bytes()
    row.unlink()  # as of a run of before there were such rows
    for path in (place / "in").rglob("*.png"):  # copied anew, with the same content
        os.utime(path, (1, 1))
    finetuned(place)
    assert row.read_bytes() == drawn
    stamp = row.stat().st_mtime_ns
    said = capsys.readouterr().err
    assert "pictures is written again: " not in said
    trial = said.splitlines()[-1].removeprefix("cv3jax: try it: ")
    cv3jax, name, *argv = shlex.split(trial)
    assert (cv3jax, name) == ("cv3jax", "sample")
    assert argv[argv.index("--prompt") + 1] == "red kite"
    sample.main([*argv, "--steps", "2"])
    assert len(list((place / "w" / "out").glob("*red_kite*.png"))) == 1
    capsys.readouterr()
    finetuned(place, "train.steps=5")
    assert row.stat().st_mtime_ns == stamp
    assert len(list(row.parent.iterdir())) == 4  # before, 2, 4 and 5
