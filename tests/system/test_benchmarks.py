"""Test the benchmarks: their facts, missed bars and refused flags."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest

from cv3jax.aot import topology
from cv3jax.distributed.chips import CHIPS, chip_of

ROOT = Path(__file__).parents[2]
FITS = {
    "step": "train",
    "fits": True,
    "collectives": None,
    "fsdp": None,
    "mfu_bound": None,
    "flops_per_step": 1e15,
    "compile_seconds": 3.0,
    "host_peak_bytes": 10**9,
    **{f"{name}_bytes_per_chip": 10**9 for name in ("peak", "argument", "temporary")},
}


@pytest.fixture
def benchmark(monkeypatch):
    """Return a function that imports a script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("unet", ["--rounds", "0"], "--rounds and --batch must be at least 1"),
        ("unet", ["--batch", "0"], "--rounds and --batch must be at least 1"),
        ("sampling", ["--batch", "0"], "--batch and --rounds must be at least 1"),
        ("tiled_decode", ["--rounds", "0"], "--rounds must be at least 1"),
        ("tiled_decode", ["--side", "100"], "--side and --tile must be multiples of 8 above 0"),
        ("serve_released", ["--num", "0"], "--batch and --num must be at least 1"),
        ("gpu_plan", ["--json", "x", "--train", "0"], "--batch and --train must be at least 1"),
        ("text_kv", ["--rounds", "0"], "--rounds must be at least 1"),
        ("cascade", ["--rounds", "0"], "--batch and --rounds must be at least 1"),
        ("cascade", ["--batch", "0"], "--batch and --rounds must be at least 1"),
        ("attention", ["--rounds", "0"], "--batch and --rounds must be at least 1"),
        ("loop", ["--steps", "0"], "--rounds and --steps must be at least 1"),
        ("sigterm", ["--gb", "0"], "--rounds must be at least 1, and --gb above 0"),
        ("first_picture", ["--rounds", "0"], "--rounds must be at least 1"),
        ("first_picture", ["--against", "nope"], "--against nope: there is no cv3jax"),
        ("eval_overhead", ["--steps", "2"], "--rounds must be at least 1, and --steps at least 3"),
        ("distill", ["--batch", "0"], "--batch, --steps and --rounds must be at least 1"),
        ("guidance", ["--weights", "1"], "--weights must be two or more, --count at least 1"),
        (
            "guidance",
            ["--student", "scenes_teacher"],
            "--student scenes_teacher: its base is not guidance-conditioned",
        ),
        ("many_records", ["--shard", "0"], "--records, --shard and --batches must be at least 1"),
        ("many_records", ["--records", "30000"], "--records must be a multiple of --shard"),
        ("shuffle_windows", ["--seeds", "0"], "--batches and --seeds must be at least 1"),
        ("loader", ["--workers", "0"], "--workers and --rounds must be at least 1"),
        ("serve", ["--rounds", "0"], "--batch and --rounds must be at least 1"),
        ("serve_soak", ["--num", "5"], "--num must be at least 100 and --workers at least 1"),
        ("data_build", ["--count", "7000"], "--count must be a multiple of 5 × --shard"),
    ],
)
def test_a_bad_flag_is_no_traceback(name, flags, message, benchmark, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *flags])
    with pytest.raises(SystemExit) as ended:
        benchmark(name).main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_revision_is_marked_where_the_code_differs_from_it(benchmark, tmp_path):
    revision = benchmark("measure").revision
    assert revision(tmp_path) is None

    def git(*words):
        author = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ["git", "-C", str(tmp_path), *author, *words],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    git("init")
    (tmp_path / "cv3jax").mkdir()
    (tmp_path / "cv3jax" / "a.py").write_text("1\n")
    git("add", ".")
    git("commit", "-m", "one")
    head = git("rev-parse", "--short", "HEAD")
    (tmp_path / "results.json").write_text("{}\n")
    assert revision(tmp_path) == head  # a result is no code
    (tmp_path / "cv3jax" / "a.py").write_text("2\n")
    assert revision(tmp_path) == head + "+"
    git("checkout", "--", ".")
    (tmp_path / "cv3jax" / "b.py").touch()
    assert revision(tmp_path) == head + "+"


def test_kept_compile_times_keep_their_date_and_revision(benchmark, monkeypatch, tmp_path):
    script, measure = benchmark("compile_time"), benchmark("measure")
    old = {
        "environment": {"date": "2026-01-01 00:00 UTC", "machine": "another"},
        "results": {"a train v5e:2x4": FITS},
    }
    # as it was before there were revisions
    (tmp_path / "compile_time.json").write_text(json.dumps(old))
    asked = []

    def run(day, revision, *recipes, again=False):
        asked.clear()
        monkeypatch.setattr(script, "compiled", lambda *cell: asked.append(cell[0]) or dict(FITS))
        monkeypatch.setattr(
            measure,
            "facts",
            lambda: {"date": f"2026-02-0{day} 10:00 UTC", "hardware": "this one", "load": "0"},
        )
        monkeypatch.setattr(measure, "revision", lambda checkout: {ROOT: revision}[checkout])
        flags = [
            "--out",
            str(tmp_path),
            "--recipes",
            *recipes,
            "--topologies",
            "v5e:2x4",
            "--steps",
            "train",
            *["--again"] * again,
        ]
        monkeypatch.setattr(sys, "argv", ["compile_time.py", *flags])
        before = jax.config.jax_platforms
        script.main()
        jax.config.update("jax_platforms", before)
        stored = json.loads((tmp_path / "compile_time.json").read_text())
        made = {
            key.split()[0]: (f.get("revision"), f.get("date", "")[:10])
            for key, f in stored["results"].items()
        }
        return made, (tmp_path / "compile_time.md").read_text().splitlines()[0]

    made, head = run(1, "abc", "a", "b")
    assert asked == ["b"]
    assert made == {"a": (None, ""), "b": ("abc", "2026-02-01")}
    assert (
        "unrecorded code, unknown (1); abc, 2026-02-01 (1). The newest was made with hardware"
        " this one" in head
    )
    made, head = run(2, "def+", "a", "b", "c")
    assert asked == ["c"]
    assert made["b"] == ("abc", "2026-02-01")
    assert "abc, 2026-02-01 (1); def+, 2026-02-02 (1). " in head
    _, after = run(3, "ghi", "a", "b", "c")  # nothing to do, and nothing is of today
    assert after == head
    made, head = run(4, "ghi", "a", again=True)
    assert made == {
        "a": ("ghi", "2026-02-04"),
        "b": ("abc", "2026-02-01"),
        "c": ("def+", "2026-02-02"),
    }
    # of the rows below it alone
    assert head.startswith("results by revision and day: ghi, 2026-02-04 (1). ")


@pytest.mark.parametrize(
    "kind", [pytest.param("guided", marks=pytest.mark.slow), "guidance-conditioned"]
)
def test_a_distillation_step_has_the_flops_of_its_passes_and_update(kind, benchmark):
    """The passes are two of the teacher, and the student forward and backward."""
    script = benchmark("distill")
    config = script.load("scenes_distill_relay:tiny", 2, "optim.kind=adamw")
    some = script.pieces(config, kind)
    count = script.counted(some)
    assert count["step"] == count["teacher"] + count["student"] + count["update"]
    rows = 2 if kind == "guided" else 1
    forward = count["teacher"] / (2 * rows)
    assert 2.7 * forward < count["student"] < 3 * forward + count["teacher"] / 4
    ratio = sys.modules["measure"].spread([1.2])
    slow = {"recipe": "a", "kind": kind, "ratio": ratio, "flops_ratio": 1.0}
    assert script.missed([slow]) == [
        f"a, {kind}: a step is 1.200 of its passes and update in time (bar: 1.05)"
    ]


def test_chips_have_the_names_that_jax_gives_them():
    assert chip_of("cpu") is None
    assert chip_of("NVIDIA H100 PCIe") is None
    for name, chip in CHIPS.items():
        if not chip.tpu:
            described = (topology.descriptions() / f"{name}.textproto").read_text()
            assert chip_of(described.split('device_description_str: "')[1].split('"')[0]) is chip


@pytest.mark.tpu_compile
@pytest.mark.parametrize("name", ["v5e:2x2", "v5p:2x2x1", "v6e:2x2"])
def test_tpus_have_the_names_that_jax_gives_them(name):
    where = topology.load(name)
    assert chip_of(where.devices[0].device_kind) is where.chip
