"""`cv3jax compile` on small programs: what it says of memory and collectives, for TPUs and GPUs
that are not here.
"""

import io
import json
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import pytest
import tiny_runs
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax import cli, recipes
from cv3jax.aot import run as compiling
from cv3jax.aot import topology
from cv3jax.aot.chips import CHIPS
from cv3jax.aot.progress import Progress
from cv3jax.aot.report import text
from cv3jax.aot.topology import Topology
from cv3jax.commands import compile
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.distributed.backend import prefer_cpu
from cv3jax.distributed.mesh import make_mesh
from data_pipeline.io.errors import InputError

LAYERS, WIDTH, ROWS = 4, 1024, 512
FIELDS = {
    "fits",
    "peak_bytes_per_chip",
    "argument_bytes_per_chip",
    "temporary_bytes_per_chip",
    "capacity_bytes",
    "flops_per_step",
    "flops_per_image",
    "collectives",
    "roofline_seconds",
    "mfu_bound",
    "compile_seconds",
    "host_peak_bytes",
}
PEAK = {chip.title: chip.flops for chip in CHIPS.values()}


class Program(NamedTuple):
    """What `cv3jax.aot.programs.program` makes, of a small step made here."""

    jitted: Any
    args: tuple
    mesh: Any
    images: int
    microbatches: int
    params: Any


def small(devices, rows=ROWS, width=WIDTH) -> Program:
    """A step of a few matrix products, their weights over "fsdp"."""
    mesh = make_mesh(data=1, fsdp=-1, devices=devices)
    split, batch = NamedSharding(mesh, P(None, "fsdp")), NamedSharding(mesh, P(("data", "fsdp")))

    def loss(params, x):
        def layer(h, w):
            return (
                jax.lax.with_sharding_constraint(jnp.tanh(h @ w.astype(jnp.bfloat16)), batch),
                None,
            )

        return (jax.lax.scan(layer, x, params)[0].astype(jnp.float32) ** 2).mean()

    params = jax.ShapeDtypeStruct((LAYERS, width, width), jnp.float32, sharding=split)
    x = jax.ShapeDtypeStruct((rows * len(devices), width), jnp.bfloat16, sharding=batch)
    step = jax.jit(
        lambda params, x: params - jax.grad(loss)(params, x), donate_argnums=0, out_shardings=split
    )
    return Program(step, (params, x), mesh, x.shape[0], 1, {"w": params})


def analysed(where: Topology, **sizes) -> dict:
    work = small(where.devices, **sizes)
    with Progress(io.StringIO()) as progress:
        return compiling.analyse(work, where, progress, gathers=2, train=True)


@pytest.fixture
def no_cache():
    """As the command has it: a cached program of hardware that is not here cannot be loaded."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def check(figures: dict, chips: int) -> None:
    """What holds of `small` on any hardware."""
    assert set(json.loads(json.dumps(figures))) >= FIELDS
    assert figures["parameters"] == LAYERS * WIDTH**2
    assert figures["flops_per_step"] == 3 * LAYERS * 2 * ROWS * chips * WIDTH**2
    assert figures["flops_per_image"] == figures["flops_per_step"] / (ROWS * chips)
    weights, rows = LAYERS * WIDTH**2 * 4 // chips, ROWS * WIDTH * 2
    assert figures["argument_bytes_per_chip"] == pytest.approx(weights + rows, rel=0.01)
    assert figures["aliased_bytes_per_chip"] == pytest.approx(weights, rel=0.01)  # donated
    parts = [
        figures[f"{name}_bytes_per_chip"] for name in ("argument", "output", "temporary", "code")
    ]
    assert figures["peak_bytes_per_chip"] == sum(parts) - figures["aliased_bytes_per_chip"]
    assert figures["fits"]
    assert (
        figures["fsdp"]["minimum_gather_bytes"] == 2 * 2 * LAYERS * WIDTH**2 * (chips - 1) / chips
    )
    assert figures["fsdp"]["minimum_reduce_bytes"] == 4 * LAYERS * WIDTH**2 * (chips - 1) / chips
    assert (
        sum(row["wire_bytes"] for row in figures["collectives"].values())
        == figures["fsdp"]["actual_bytes"]
    )
    moved = sum(row["count"] for row in figures["collectives"].values())
    assert moved >= 2 * LAYERS  # in the loop over layers, forward or backward; once each would be 2
    assert figures["roofline_seconds"]["compute"] == pytest.approx(
        figures["flops_per_step"] / chips / PEAK[figures["chip"]]
    )
    # what cannot stay within the chip: weights read and written, the batch read
    least = 2 * weights + rows
    # and gathered weights, activations
    assert least < figures["memory_traffic_bytes_per_chip"] < 40 * LAYERS * (WIDTH**2 * 2 + rows)
    assert 0 < figures["mfu_bound"] <= 1


@pytest.mark.tpu_compile
@pytest.mark.usefixtures("no_cache")
def test_what_a_sparsecore_would_look_up_is_read():
    """A table as T5's, of which libtpu hands the look-up to a v5p's SparseCore unless it is told
    not to; jaxlib cannot read that.
    """
    where = topology.load("v5p:2x2x1")
    mesh = make_mesh(data=1, fsdp=4, devices=where.devices)
    table = jax.ShapeDtypeStruct((32128, 4096), jnp.bfloat16, sharding=NamedSharding(mesh, P()))
    tokens = jax.ShapeDtypeStruct((32, 225), jnp.int32, sharding=NamedSharding(mesh, P("fsdp")))
    look_up = jax.jit(
        lambda table, tokens: jnp.tanh(table[tokens].astype(jnp.float32)).astype(jnp.bfloat16)
    )
    with Progress(io.StringIO()) as progress:
        figures = compiling.analyse(
            Program(look_up, (table, tokens), mesh, 32, 1, table),
            where,
            progress,
            gathers=None,
            train=False,
        )
    assert figures["memory_traffic_bytes_per_chip"] >= 2 * 8 * 225 * 4096 * 2


@pytest.mark.tpu_compile
def test_a_tpu_program(no_cache):
    where = topology.load("v5e:2x2")
    assert len(where.devices) == 4
    assert jax.devices()[0].platform == "cpu"
    figures = analysed(where)
    check(figures, 4)
    report = text({"config": "small", "step": "train", "topology": where.name, **figures})
    assert "4 × TPU v5e" in report
    assert "of 16.00 GB: fits" in report
    assert f"{LAYERS * WIDTH**2:,}" in report


@pytest.mark.tpu_compile
def test_where_the_tpu_compiler_runs_out_its_figure_is_the_peak(no_cache):
    figures = analysed(topology.load("v5e:1x1"), rows=2**17, width=8192)
    rows = 2**17 * 8192 * 2
    assert not figures["fits"]
    assert figures["argument_bytes_per_chip"] == LAYERS * 8192**2 * 4 + rows
    assert LAYERS * rows < figures["peak_bytes_per_chip"] < 100 * rows  # activations of every layer
    assert (
        figures["temporary_bytes_per_chip"]
        == figures["peak_bytes_per_chip"] - figures["argument_bytes_per_chip"]
    )
    assert figures["collectives"] is None
    assert figures["flops_per_step"] == 3 * LAYERS * 2 * 2**17 * 8192**2
    report = text({"config": "small", "step": "train", "topology": "v5e:1x1", **figures})
    assert "the compiler ran out" in report
    assert "DOES NOT FIT" in report


@pytest.mark.gpu_compile
@pytest.mark.parametrize("name", ["h100:1x8x1", "h200:1x1x8", "a100:1x8x1"])
def test_a_gpu_program(name, no_cache):
    where = topology.load(name)
    assert len(where.devices) == 8
    check(analysed(where), 8)


@pytest.mark.gpu_compile
def test_what_leaves_a_gpu_host_takes_the_network(no_cache):
    where = topology.load("h100:2x4x1")
    mesh = make_mesh(data=2, fsdp=4, devices=where.devices, slices=-1)

    def moving(axis):
        split, whole = NamedSharding(mesh, P(axis)), NamedSharding(mesh, P())
        x = jax.ShapeDtypeStruct((2**20,), jnp.float32, sharding=split)
        work = Program(jax.jit(lambda x: x + 1, out_shardings=whole), (x,), mesh, 1, 1, {"x": x})
        with Progress(io.StringIO()) as progress:
            figures = compiling.analyse(work, where, progress, gathers=None, train=False)
        return (
            sum(row["wire_bytes"] for row in figures["collectives"].values()),
            figures["roofline_seconds"]["interconnect"],
        )

    for axis, speed in (("fsdp", 450e9), ("data", 50e9)):
        sent, seconds = moving(axis)
        assert sent > 0
        assert seconds == pytest.approx(sent / speed)


@pytest.mark.parametrize(
    ("message", "peak"),
    [
        (
            (
                "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO"
                " temporaries (28.12G) exceeds available HBM (15.75G). HLO module: jit_f."
            ),
            28.12 * 2**30,
        ),
        (
            (
                "Ran out of memory in memory space hbm. Used 18512.5M of 15.75G hbm. Exceeded hbm"
                " capacity by 2.3G."
            ),
            18512.5 * 2**20,
        ),
    ],
)
def test_the_compilers_own_figure(message, peak):
    mesh = make_mesh(data=2, fsdp=4)
    args = (
        {"a": jax.ShapeDtypeStruct((8, 3), jnp.bfloat16, sharding=NamedSharding(mesh, P("fsdp")))},
        None,
    )
    memory = compiling.ran_out(message, args, Topology("v5e:2x4", CHIPS["v5e"], (2, 4), []))
    assert memory["peak_bytes_per_chip"] == int(peak)
    assert memory["argument_bytes_per_chip"] == 2 * 3 * 2


def test_another_complaint_of_the_compiler_is_passed_on():
    with pytest.raises(InputError, match="v5e:2x4: INTERNAL: a bug"):
        compiling.ran_out(
            "INTERNAL: a bug\nsomewhere", (), Topology("v5e:2x4", CHIPS["v5e"], (2, 4), [])
        )


def fake_figures(**changes) -> dict:
    """What `run` would give."""
    figures = {
        "step": "train",
        "topology": "v5e:16x16",
        "parameters": 10,
        "chips": 256,
        "chip": "TPU v5e",
        "mesh": {"data": 16, "fsdp": 16},
        "images": 2048,
        "microbatches": 1,
        "capacity_bytes": int(16e9),
        "fits": True,
        "flops_per_step": 4 * 10**15,
        "flops_per_image": 2e12,
        "recomputed_flops_per_step": 10**15,
        "model_flops_per_step": 3 * 10**15,
        "compile_seconds": 3.0,
        "seconds": {"compiling": 3.0},
        "host_peak_bytes": 10**9,
        "memory_traffic_bytes_per_chip": 10**11,
        "arithmetic_intensity": 156.0,
        "mfu_bound": 0.6,
        "roofline_seconds": {"compute": 0.1, "memory": 0.12, "interconnect": 0.02},
        "collectives": {
            "all-gather": {
                "count": 30,
                "payload_bytes": 2**30,
                "wire_bytes": 1e9,
                "wire_bytes_by_type": {"bf16": 1e9},
                "parameter_wire_bytes": 9e8,
            }
        },
        "fsdp": {
            "gathers": 3,
            "minimum_gather_bytes": 8e8,
            "minimum_reduce_bytes": 1e8,
            "actual_bytes": 1e9,
            "ratio": 1.11,
            "activation_gather_bytes": 1e8,
        },
        "host_memory_bytes_per_chip": 0,
        "peak_bytes_per_chip": 12 * 10**9,
        **{
            f"{name}_bytes_per_chip": 3 * 10**9
            for name in ("argument", "output", "aliased", "temporary", "code")
        },
    }
    return {**figures, **changes}


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


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--topology", "v5e:16x16"], "--config"),
        (["--config=base_512"], "--topology"),
        (["--config=base_512", "--topology", "v5e:5x5"], "--topology v5e:5x5: TPU v5e come as"),
        (["--config=base_51", "--topology", "v5e:2x2"], "no recipe 'base_51'"),
        (
            ["--config=base_512", "--topology", "v5e:2x2", "--steps", "0"],
            "--steps 0: must be at least 1",
        ),
        (["--config=base_512", "--topology", "v5e:2x2", "--mfu", "40"], "--mfu 40"),
        (["--config=base_512", "--topology", "v5e:2x2", "--step", "distil"], "--step"),
        (
            ["--config=base_512", "--topology", "v5e:2x2", "--workdir", "x"],
            "unknown argument --workdir",
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
    assert "nothing measured" in shown


def test_an_estimate_without_a_program_has_no_roofline(monkeypatch, tmp_path, capsys):
    """Where the compiler ran out of memory there is no roofline, and its chip-hours are not none
    but unknown.
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
        "--steps",
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
    shown = tiny_runs.run(
        "cv3jax.cli",
        "compile",
        "--config=scenes_base:tiny",
        "--topology",
        "v5e:2x4",
        "--config.batch.per_device=1",
        "--steps",
        "100",
        "--json",
        str(figures),
        cwd=tmp_path,
    )
    assert "v5e:2x4: 8 × TPU v5e, " in shown.stdout
    assert "compiling" in shown.stderr
    written = json.loads(figures.read_text())
    assert set(written) >= FIELDS
    assert written["fits"]
    assert written["images"] == 8
    assert [path.name for path in tmp_path.iterdir()] == ["figures.json"]
