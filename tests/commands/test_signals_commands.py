"""Test that a signal during a command's start ends it with its code, one line and no traceback."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import subprocesses
import tiny_runs

from cv3jax import cli
from data_pipeline.cli import COMMANDS as DATA_COMMANDS

ROOT = Path(__file__).parents[2]
PICTURES = ROOT / "docs" / "pictures"
CODES = {signal.SIGTERM: 143, signal.SIGINT: 130, signal.SIGHUP: 129}
# command → (a library that its start imports last and longest, arguments that are right)
STARTS = {
    "sample": ("jax", "--checkpoint scenes --prompt x --out {out}"),
    "upscale": ("jax", "--checkpoint scenes --image {images}/rounds.png --prompt x --out {out}"),
    "serve": ("jax", "--checkpoint scenes --port 0 --workdir {out}"),
    "bench-serve": ("httpx", "--url http://localhost:1"),
    "quickstart": ("jax", "--tiny --workdir {out}"),
    "convert": ("jax", "--checkpoint scenes --to sat --out {out}"),
    "lora merge": ("jax", "--checkpoint scenes --lora {data} --out {out}"),
    "lora extract": (
        "jax",
        "--checkpoint scenes --original scenes_teacher --stage base --out {out}.safetensors",
    ),
    "lora inspect": ("jax", "--lora {data}"),
    "lora compare": ("jax", "--lora {data} --lora {data}"),
    "lora convert": ("jax", "--lora {data} --to kohya --out {out}.safetensors"),
    "train": ("jax", "--config=scenes_vae:tiny --workdir {out} --config.data.path={data}"),
    "finetune": (
        "jax",
        "--config=scenes_lora --pictures {data} --checkpoint scenes_teacher --workdir {out}",
    ),
    "distill": (
        "jax",
        "--config=scenes_distill_base:tiny --workdir {out} --config.data.path={data}"
        " --config.cascade=scenes_teacher",
    ),
    "compile": ("jax", "--config=scenes_vae:tiny --topology v5e:2x2"),
    "plan": ("jax", "--recipes scenes_vae:tiny --topology v5e:2x2"),
    "ema": ("jax", "{data} --sigma-rel 0.08 --out {out}"),
    "status": ("ml_collections", "{data}"),
    "config": ("ml_collections", "scenes_vae"),
    "evaluate": (
        "jax",
        "--checkpoint scenes --prompts scenes --limit 1 --metrics judge --out {out}",
    ),
    "ablate": ("jax", "--config=scenes_ablations --out {out}"),
    "tables": ("jinja2", "--config=scenes_tables --out {out}"),
    "judge-people serve": (
        "fastapi",
        "--a {images} --b {images} --prompts {out} --votes {out} --port 0",
    ),
    "judge-people analyse": ("scipy", "--votes {out}"),
    "judge-people plan": ("scipy", "--num-prompts 9 --num-raters 3"),
    "judge-people export": ("scipy", "--votes {out} --out {out}"),
    "data pack": ("PIL", "--input {data} --out {out}"),
    "data build": ("apache_beam", "--input {images} --out {out}"),
    "data inspect": ("numpy", "--input {data}"),
    "data recaption": ("httpx", "--input {data} --endpoint http://x/v1 --model m --out {out}"),
    "data scenes": ("numpy", "--num 3 --out {out}"),
    "data encode": (
        "jax",
        "--config=scenes_relay:tiny --input {data} --checkpoint scenes --out {out}",
    ),
}


def start(module: str, number: int, arguments: list[str]) -> subprocess.Popen:
    helper = str(ROOT / "tests" / "helpers" / "signal_at_import.py")
    return subprocess.Popen(
        [sys.executable, helper, module, str(int(number)), *arguments],
        cwd=ROOT,
        env=subprocesses.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def check(process: subprocess.Popen, number: signal.Signals) -> None:
    out, err = process.communicate(timeout=120)
    line = f"cv3jax: {number.name}: interrupted; run the same command again\n"
    assert (process.returncode, out, err) == (CODES[number], "", line)


def test_no_command_is_left_out():
    names = {name for name in cli.COMMANDS if name != "data"}
    assert STARTS.keys() == names | {f"data {name}" for name in DATA_COMMANDS}


@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_a_signal_before_the_first_import_ends_any_command(number):
    check(start("cv3jax.cli", number, ["train"]), number)


@pytest.mark.parametrize("name", STARTS)
def test_a_signal_while_libraries_load_ends_the_command(name, tmp_path):
    module, arguments = STARTS[name]
    began = {}
    for number in (signal.SIGTERM, signal.SIGINT):  # each with a place of its own
        given = arguments.format(
            out=tmp_path / number.name, data=tiny_runs.scenes(), images=PICTURES
        )
        began[number] = start(module, number, [*name.split(), *given.split()])
    for number, process in began.items():
        check(process, number)


def test_the_installed_script_answers_signals_first():
    setup = (ROOT / "setup.py").read_text()
    assert '"cv3jax=cv3jax.__main__:main"' in setup
