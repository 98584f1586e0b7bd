"""Test the reported memory and collectives of small programs compiled ahead of time.

They are compiled for TPUs and GPUs that the machine does not have.
"""

import io
import json

import jax
import jax.numpy as jnp
import pytest
from compile_figures import FIELDS
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.aot import run as compiling
from cv3jax.aot import topology
from cv3jax.aot.programs import Program
from cv3jax.aot.progress import Progress
from cv3jax.aot.report import text
from cv3jax.aot.topology import Topology
from cv3jax.distributed.chips import CHIPS
from cv3jax.distributed.mesh import make_mesh
from data_pipeline.io.errors import InputError

pytestmark = pytest.mark.usefixtures("full_compiles")

LAYERS, WIDTH, ROWS = 4, 1024, 512
GPUS = ("h100:1x8x1", "h200:1x1x8", "a100:1x8x1", "rtx4090:1x1x8", "a10g:1x8x1")
PEAK = {chip.title: chip.flops for chip in CHIPS.values()}


def small(devices, rows=ROWS, width=WIDTH) -> Program:
    """Return a step of a few matrix products with weights split over "fsdp"."""
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
    """Switch off the compilation cache, as the command does.

    A cached program of other hardware cannot be loaded.
    """
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def check(figures: dict, chips: int) -> None:
    """Check what holds of `small` on any hardware."""
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
    """By default libtpu hands a look-up in a table as large as T5's to a v5p's SparseCore.

    jaxlib cannot read such a program, so this is switched off.
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
@pytest.mark.parametrize("name", GPUS)
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
