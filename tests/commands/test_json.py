"""Test `--json FILE` and `--json -`: every command prints its figures, and only them on stdout."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest
import subprocesses
from PIL import Image

from cv3jax import cli
from cv3jax.aot import report as aot_report
from cv3jax.aot import run as aot
from cv3jax.commands import bench_serve, serve
from cv3jax.distillation import run as distillation
from cv3jax.evaluation import run as evaluation
from cv3jax.evaluation.ablations import run as ablations
from cv3jax.lora import run as adapting
from cv3jax.precompute import run as precompute
from cv3jax.quickstart import run as quickstart
from cv3jax.sampling import enlarge, few
from cv3jax.training import run as training
from cv3jax.weights import convert
from data_pipeline.io.errors import InputError
from data_pipeline.io.figures import STDOUT, check_json, reporting

# command → (its flags but for --json, the function that does the work, what a figure is called)
WORK = {
    "evaluate": (
        "--images {at} --prompts scenes --limit 1 --metrics judge --out {at}/w",
        (evaluation, "evaluate"),
        "images",
    ),
    "ablate": (
        "--config=scenes_ablations --groups steps --out {at}/w",
        (ablations, "ablate"),
        "images",
    ),
    "train": ("--config=scenes_vae:tiny --workdir {at}/w", (training, "run"), "steps"),
    "finetune": (
        "--config=scenes_lora --pictures {at}/in --checkpoint scenes_teacher --workdir {at}/w"
        " --config.pictures.cache=False",
        (adapting, "run"),
        "steps",
    ),
    "distill": (
        "--config=scenes_distill_base:tiny --workdir {at}/w --config.cascade=scenes_teacher",
        (distillation, "run"),
        "rounds",
    ),
    "sample": ("--checkpoint scenes --prompt x --out {at}/w", (few, "sample_few"), "images"),
    "upscale": (
        "--checkpoint scenes --prompt x --image {at}/a.png --out {at}/w",
        (enlarge, "enlarge"),
        "images",
    ),
    "serve": ("--checkpoint scenes --workdir {at}/w", (serve, "_serve"), "images"),
    "bench-serve": ("--url http://127.0.0.1:1", (bench_serve, "_measure"), "images"),
    "quickstart": ("--workdir {at}/w", (quickstart, "run"), "n"),
    "compile": ("--config=scenes_vae:tiny --topology v5e:2x2", (aot, "run"), "fits"),
    "convert": ("--vae {at} --out {at}/w", (convert, "convert_in"), "recognised"),
    "data encode": (
        "--config=scenes_base:tiny --input {at} --checkpoint scenes_teacher --out {at}/w",
        (precompute, "run"),
        "images",
    ),
}
TIMED = ("train", "finetune", "distill")  # their seconds are a number
FIGURES = {
    "stage": "vae",
    "steps": 3,
    "seconds": {"total": 1.0},
    "rounds": [{"steps": 1}],
    "images": 4,
    "n": 5,
    "fits": True,
    "recognised": {},
    "pictures": 4,
    "metrics": {},
    "groups": {},
}


def test_the_commands_below_are_all_that_run_models():
    judging = {f"judge-people {name}" for name in ("serve", "analyse", "plan", "export")}
    # tests/adapters/test_lora_commands.py reads their figures
    adapters = {f"lora {name}" for name in ("merge", "extract", "inspect", "compare", "convert")}
    # tests/aot/test_budget.py those of plan, and tests/training/test_{status,posthoc}.py theirs
    assert WORK.keys() | {"config", "tables", "plan", "status", "ema"} | judging | adapters >= {
        name for name, (module, _) in cli.modules().items() if module.startswith("cv3jax.")
    }


@pytest.mark.parametrize("name", WORK)
@pytest.mark.parametrize("target", ["-", "{at}/f.json"])
def test_a_command_s_figures_are_where_they_are_asked_for(
    name, target, tmp_path, monkeypatch, capsys
):
    flags, (module, function), figure = WORK[name]
    figures = {**FIGURES, "seconds": 1.0} if name in TIMED else FIGURES

    def work(*args, **options):
        print("said while it works")
        return dict(figures)

    for place in (tmp_path, tmp_path / "in" / "a_star"):
        place.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (32, 32)).save(place / "a.png")
    monkeypatch.setattr(module, function, work)
    monkeypatch.setattr(aot_report, "text", lambda figures: "a report")
    target = target.format(at=tmp_path)
    argv = [*flags.format(at=tmp_path).split(), "--json", target]
    importlib.import_module(cli.modules()[name][0]).main(argv)
    out, err = capsys.readouterr()
    assert ("said while it works" in out) == (target != "-")
    assert ("said while it works" in err) == (target == "-")
    found = json.loads(out if target == "-" else Path(target).read_text())
    assert found[figure] == figures[figure]


def test_a_data_command_writes_its_figures_alone(tmp_path):
    flags = f"--num 2 --size 32 --shards 1 --out {tmp_path}/d --json -"
    done = subprocess.run(
        [sys.executable, "-m", "cv3jax", "data", "scenes", *flags.split()],
        env=subprocesses.environment(),
        capture_output=True,
        text=True,
    )
    assert json.loads(done.stdout)["records"] == 2, done.stderr
    assert "2 scenes of the train split" in done.stderr


PRINTS = """
import os, subprocess
from data_pipeline.io.figures import STDOUT, reporting
with reporting(STDOUT) as report:
    print("python")
    os.write(1, b"descriptor\\n")
    subprocess.run(["echo", "process"])
    report({"a": 1, "name": "\\udcff"})
print("after")
"""


def test_what_c_code_and_other_processes_print_goes_to_stderr_too():
    done = subprocess.run([sys.executable, "-c", PRINTS], capture_output=True, text=True)
    assert done.stdout == '{\n  "a": 1,\n  "name": "\\udcff"\n}\nafter\n', done.stderr
    assert sorted(done.stderr.split()) == ["descriptor", "process", "python"]


def test_a_command_that_fails_writes_no_figures(capsys):
    def fails():
        with reporting(STDOUT) as report:
            report({"a": 1})
            raise InputError("no")

    with pytest.raises(InputError):
        fails()
    print("stdout is back")
    assert capsys.readouterr().out == "stdout is back\n"


def test_a_place_for_figures_is_tried_before_the_work(tmp_path):
    check_json(None)
    check_json(STDOUT)
    check_json(tmp_path / "new" / "f.json")
    with pytest.raises(InputError, match=r"--json .* is a directory"):
        check_json(tmp_path)
