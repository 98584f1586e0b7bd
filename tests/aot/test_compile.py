"""Test `cv3jax compile`: output, exit codes, estimates, progress and refusals."""

import io
import json
import math
import os

import jax
import pytest
import subprocesses
from compile_figures import FIELDS, fake_figures

from cv3jax import cli, recipes
from cv3jax.aot import run as compiling
from cv3jax.aot import topology
from cv3jax.aot.progress import Progress
from cv3jax.aot.report import text
from cv3jax.aot.topology import Topology
from cv3jax.commands import compile
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.distributed.backend import prefer_cpu
from cv3jax.distributed.chips import CHIPS


@pytest.mark.parametrize(("fits", "code"), [(True, 0), (False, 3)])
def test_the_command_prints_writes_and_tells_by_its_exit_code(
    fits, code, monkeypatch, tmp_path, capsys
):
    monkeypatch.setattr(compiling, "run", lambda *_, **__: fake_figures(fits=fits))
    argv = [
        "--config=base_512",
        "--topology",
        "v5e:16x16",
        "--json",
        str(tmp_path / "a" / "figures.json"),
    ]
    if code:
        with pytest.raises(SystemExit) as ended:
            compile.main(argv)
        assert ended.value.code == code
    else:
        compile.main(argv)
    written = json.loads((tmp_path / "a" / "figures.json").read_text())
    assert written["fits"] is fits
    assert set(written) >= FIELDS
    shown = capsys.readouterr().out
    for part in (
        "base_512, train",
        "256 × TPU v5e, data 16 × fsdp 16",
        "2,048 images in 1 microbatch",
        "25% of it recomputed",
        "30 ×, 1.00 GB",
        "1.11 × 0.90 GB",
        "gathers of activations 0.10 GB",
        "memory 120.0 ms",
        "60%",
    ):
        assert part in shown
    assert ("DOES NOT FIT" in shown) is not fits


SAMPLE = ["--config=base_512", "--topology", "v5e:2x2", "--step", "sample"]


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--topology", "v5e:16x16"], "--config"),
        (["--config=base_512"], "--topology"),
        (
            ["--config=base_512", "--topology", "v5e:5x5"],
            "--topology v5e:5x5: no TPU v5e has this shape",
        ),
        (["--config=base_51", "--topology", "v5e:2x2"], "unknown recipe 'base_51'"),
        (
            ["--config=base_512", "--topology", "v5e:2x2", "--updates", "0"],
            "--updates 0: must be at least 1",
        ),
        (["--config=base_512", "--topology", "v5e:2x2", "--mfu", "40"], "--mfu 40"),
        (["--config=base_512", "--topology", "v5e:2x2", "--step", "distil"], "--step"),
        (["--config=base_512", "--topology", "v5e:2x2", "--size", "64"], "--size needs --step"),
        (["--config=base_512", "--topology", "v5e:2x2", "--tile", "64"], "--tile needs --step"),
        ([*SAMPLE, "--size", "big"], "--size big: give one side, or HEIGHTxWIDTH"),
        ([*SAMPLE, "--tile", "8"], "--tile 8: 16..16384 pixels"),
        (
            ["--config=base_512", "--topology", "v5e:2x2", "--workdir", "x"],
            "unknown flag --workdir",
        ),
    ],
)
def test_bad_input_is_one_line(argv, message, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.run_command(compile.main, argv)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("name", "step", "gathers"),
    [
        ("base_256", "train", 2),
        ("base_256", "encode", 1),
        ("base_256", "sample", None),
        ("base_256:tiny", "train", 2),
        ("distill_base", "train", 4),
        ("distill_base", "later", 4),
    ],
)
def test_gathers_are_of_the_student_and_of_its_teacher_s_two_passes(
    name, step, gathers, monkeypatch
):
    seen = {}
    monkeypatch.setattr(compiling, "load", lambda name: Topology(name, CHIPS["v5e"], (2, 4), []))
    monkeypatch.setattr("cv3jax.aot.programs.program", lambda *_: None)
    monkeypatch.setattr(compiling, "analyse", lambda *_, **options: seen.update(options) or {})
    compiling.run(parse_recipe(recipes.load(name, [])), "v5e:2x4", step)
    assert seen == {"gathers": gathers, "train": step in ("train", "later")}


def test_an_estimate_is_marked_as_one():
    estimate = {
        "steps": 600000,
        "mfu": 0.4,
        "chip_hours_at_roofline": 1000.0,
        "chip_hours_at_mfu": 2500.0,
        "days_at_mfu": 4.2,
    }
    shown = text({"config": "base_512", **fake_figures(estimate=estimate)})
    assert "estimate" in shown
    assert "1,000 chip-hours at the roofline, 2,500 at 40% MFU (4.2 days)" in shown
    assert "not measured" in shown


def test_an_estimate_without_a_program_has_no_roofline(monkeypatch, tmp_path, capsys):
    """If the compiler runs out of memory, there is no roofline.

    Then the chip-hours are unknown instead of zero.
    """
    out = dict.fromkeys(
        ("roofline_seconds", "mfu_bound", "collectives", "fsdp", "memory_traffic_bytes_per_chip")
    )
    monkeypatch.setattr(compiling, "load", lambda name: Topology(name, CHIPS["v5e"], (16, 16), []))
    monkeypatch.setattr("cv3jax.aot.programs.program", lambda *_: None)
    monkeypatch.setattr(compiling, "analyse", lambda *_, **__: fake_figures(fits=False, **out))
    argv = [
        "--config=base_512",
        "--topology",
        "v5e:16x16",
        "--updates",
        "1000",
        "--json",
        str(tmp_path / "figures.json"),
    ]
    with pytest.raises(SystemExit):
        compile.main(argv)
    written = json.loads((tmp_path / "figures.json").read_text())["estimate"]
    assert written["chip_hours_at_roofline"] is None
    assert written["chip_hours_at_mfu"] == pytest.approx(1000 * 3e15 / (197e12 * 0.4) / 3600)
    shown = capsys.readouterr().out
    assert f"1,000 steps: {written['chip_hours_at_mfu']:,.0f} at 40% MFU" in shown
    assert "at the roofline" not in shown


@pytest.mark.parametrize(
    ("installed", "device", "chosen", "becomes"),
    [
        ("libtpu", None, "", "cpu"),
        ("jax_cuda13_plugin", None, "", "cpu"),
        ("libtpu", "vfio/0", "", ""),
        ("jax_cuda13_plugin", "nvidia0", "", ""),
        ("libtpu", None, "tpu", "tpu"),
        (None, None, "", ""),
    ],
)
def test_a_compiler_without_its_hardware_leaves_commands_on_the_cpu(
    installed, device, chosen, becomes, monkeypatch, tmp_path
):
    if device:
        (tmp_path / device).parent.mkdir(exist_ok=True)
        (tmp_path / device).touch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name == installed or None)
    before = jax.config.jax_platforms
    try:
        jax.config.update("jax_platforms", chosen)
        prefer_cpu(tmp_path)
        assert jax.config.jax_platforms == becomes
    finally:
        jax.config.update("jax_platforms", before)


def test_progress_names_the_phases_and_times_them():
    out = io.StringIO()
    with Progress(out) as progress:
        progress.phase("tracing")
        progress.phase("compiling")
        seconds = progress.end()
    assert list(seconds) == ["tracing", "compiling"]
    assert all(0 <= value < math.inf for value in seconds.values())
    assert [line.split()[0] for line in out.getvalue().splitlines()] == ["tracing", "compiling"]


@pytest.mark.slow
@pytest.mark.tpu_compile
def test_the_command_works_from_another_directory_beside_a_process_that_has_libtpu(tmp_path):
    topology.load("v5e:2x2")  # this process is the other one
    figures = tmp_path / "figures.json"
    shown = subprocesses.run(
        "cv3jax",
        "compile",
        "--config=scenes_base:tiny",
        "--topology",
        "v5e:2x4",
        "--config.batch.per_device=1",
        "--updates",
        "100",
        "--json",
        str(figures),
        cwd=tmp_path,
        XLA_FLAGS=os.environ.get("XLA_FLAGS", ""),  # libtpu does not know the tests' own
    )
    assert "v5e:2x4: 8 × TPU v5e, " in shown.stdout
    assert "compiling" in shown.stderr
    written = json.loads(figures.read_text())
    assert set(written) >= FIELDS
    assert written["fits"]
    assert written["images"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
