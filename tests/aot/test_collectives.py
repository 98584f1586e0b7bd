"""Test how collectives are read from the text of compiled modules.

The tests check groups, bytes, and which collectives are of parameters. They use the forms that
compilers print, and modules compiled for the CPU.
"""

import itertools
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.aot.collectives import by_kind, collectives, fsdp_minimum, replica_groups
from cv3jax.aot.hlo import Module, UnknownError
from cv3jax.aot.memory_traffic import traffic
from cv3jax.distributed.mesh import make_mesh

pytestmark = pytest.mark.usefixtures("full_compiles")

HLO = Path(__file__).parent / "hlo"
# as the TPU compiler prints a step: no trip counts, groups by mesh, the reduce-scatter a fusion, a
# parameter gathered in the loop
TPU = (HLO / "tpu.txt").read_text()

# as the GPU compiler prints it: known trip counts, starts and dones, groups on a permuted mesh
GPU = (HLO / "gpu.txt").read_text()

MB = 2**20


def test_a_tpu_step_without_trip_counts():
    weights, activations, gradient = collectives(Module(TPU))
    assert (weights.kind, weights.group, weights.times, weights.dtype) == (
        "all-gather",
        16,
        5,
        "bf16",
    )
    assert (weights.payload, weights.wire) == (8 * MB, 8 * MB * 15 / 16)
    assert weights.parameters
    assert weights.scope == "jit(step)/w"
    assert (activations.group, activations.payload, activations.times) == (4, 32 * 2048 * 4, 5)
    assert activations.groups == ((0, 1, 2, 3), (4, 5, 6, 7), (8, 9, 10, 11), (12, 13, 14, 15))
    assert not activations.parameters
    assert (gradient.kind, gradient.group, gradient.payload, gradient.wire) == (
        "reduce-scatter",
        4,
        8 * MB,
        6 * MB,
    )
    assert gradient.scope == "jit(step)/transpose/w"


def test_a_gpu_step_counts_starts_once():
    found = collectives(Module(GPU))
    assert [(one.kind, one.group, one.times, one.payload / MB, one.wire / MB) for one in found] == [
        ("all-gather", 4, 7, 8, 6),
        ("reduce-scatter", 4, 7, 8, 6),
        ("collective-permute", 2, 7, 2, 2),
    ]
    assert by_kind(found)["all-gather"] == {
        "count": 7,
        "payload_bytes": 56 * MB,
        "wire_bytes": 42 * MB,
        "wire_bytes_by_type": {"bf16": 42 * MB},
        "parameter_wire_bytes": 0,
    }


@pytest.mark.parametrize(
    "change",
    [
        (
            "%w16 = bf16[5,128,2048]{2,1,0} convert(%param.0)",
            "%w16 = bf16[5,128,2048]{2,1,0} tanh(%param.0)",
        ),
        ("state.params['w']", "batch['w']"),
    ],
)
def test_what_is_computed_or_is_data_is_no_parameter(change):
    assert change[0] in TPU
    assert not any(one.parameters for one in collectives(Module(TPU.replace(*change))))
    # the step says so itself
    for scope, says in (("gathered", True), ("jvp(gathered)", True), ("ungathered", False)):
        named = TPU.replace(*change).replace(
            'op_name="jit(step)/w"', f'op_name="jit(step)/{scope}/w"'
        )
        assert [one.parameters for one in collectives(Module(named))] == [says, False, False]


def test_a_parameter_copied_in_slices_is_one_still():
    whole = "%w16 = bf16[5,128,2048]{2,1,0} convert(%param.0)"
    slices = "\n".join(
        f"  %slice-start.{i} = ((f32[5,128,2048]{{2,1,0}}), f32[{n},128,2048]{{2,1,0}}, s32[])"
        f" slice-start(%param.0)\n  %slice-done.{i} = f32[{n},128,2048]{{2,1,0:S(1)}}"
        f" slice-done(%slice-start.{i})"
        for i, n in enumerate((2, 3))
    )
    joined = (
        "%all = f32[5,128,2048]{2,1,0:S(1)} custom-call(%slice-done.0, %slice-done.1),"
        ' custom_call_target="ConcatBitcast"'
    )
    module = Module(
        TPU.replace(whole, f"{slices[2:]}\n  {joined}\n  {whole.replace('param.0', 'all')}")
    )
    assert [one.parameters for one in collectives(module)] == [True, False, False]
    # read once, slice by slice
    assert traffic(module, on_chip=True) == pytest.approx(
        traffic(Module(TPU), on_chip=True), abs=16
    )


@pytest.mark.parametrize(
    ("groups", "count", "first"),
    [
        ("replica_groups={{0,1},{2,3}}", 2, (0, 1)),
        ("replica_groups={{0,4,8,12}}, use_global_device_ids=true", 1, (0, 4, 8, 12)),
        ("replica_groups=[16,8]<=[128]", 16, tuple(range(8))),
        ("replica_groups=[2,4]<=[4,2]T(1,0), dimensions={0}", 2, (0, 2, 4, 6)),
        ("replica_groups=[4,2]<=[2,2,2]T(1,2,0)", 4, (0, 4)),
        ("replica_groups=mesh['x'=16,'y'=4] {'y'}, dimensions={1}", 16, (0, 1, 2, 3)),
        ("replica_groups=mesh['x'=4,'y'=4] {'x'}, dimensions={1}", 4, (0, 4, 8, 12)),
        ("replica_groups=mesh['x'=2,'y'=4] {'x','y'}", 1, tuple(range(8))),
        ("replica_groups=mesh['x'=16,'y'=4] {'x':(2)4}", 16, (0, 8, 16, 24)),
        (
            "replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'y'}, to_apply=%add",
            4,
            (0, 4),
        ),
        ("replica_groups=mesh['x'=4,'y'=2], device_ids=([2,4]T(1,0)) {'x'}", 2, (0, 1, 2, 3)),
        ("replica_groups=mesh['x'=2,'y'=2], device_ids=(0,2,1,3) {'y'}", 2, (0, 2)),
        ("replica_groups=mesh[x=2,y=4] {x}", 4, (0, 4)),  # as newer compilers write it
        ("replica_groups={}", 1, tuple(range(256))),
        ("source_target_pairs={{0,1},{1,2},{2,0}}", 3, (0, 1)),
    ],
)
def test_groups_in_every_form(groups, count, first):
    found = replica_groups(f", channel_id=1, {groups}, metadata={{}}", 256)
    assert (len(found), found[0]) == (count, first)
    assert {len(group) for group in found} == {len(first)}
    # no chip twice
    assert len(set(itertools.chain(*found))) == (count if "pairs" in groups else count * len(first))


def test_groups_of_an_unknown_form_are_refused():
    with pytest.raises(UnknownError, match="form"):
        replica_groups("replica_groups=@new[3]", 8)


def test_a_real_sharded_step_has_the_bytes_of_its_shapes():
    mesh = make_mesh(data=2, fsdp=4)
    width, layers, microbatches = 64, 3, 2

    def loss(ws, x):
        def layer(h, w):
            w = jax.lax.with_sharding_constraint(w, NamedSharding(mesh, P()))  # gathered, whole
            return jax.lax.with_sharding_constraint(jnp.tanh(h @ w), rows), None

        return (jax.lax.scan(layer, x, ws)[0] ** 2).mean()

    def step(params, batch):
        def add(total, x):
            return total + jax.grad(loss)(params, x), None

        return params - jax.lax.scan(add, jnp.zeros_like(params), batch)[0]

    rows = NamedSharding(mesh, P(("data", "fsdp")))
    ws = jax.ShapeDtypeStruct(
        (layers, width, width), jnp.float32, sharding=NamedSharding(mesh, P(None, "fsdp"))
    )
    x = jax.ShapeDtypeStruct(
        (microbatches, 16, width),
        jnp.float32,
        sharding=NamedSharding(mesh, P(None, ("data", "fsdp"))),
    )
    compiled = jax.jit(step, out_shardings=ws.sharding).lower(ws, x).compile()
    found = collectives(Module(compiled.as_text()))
    gathers = [one for one in found if one.kind == "all-gather"]
    assert {(one.group, one.parameters) for one in gathers} == {(4, True)}
    one_pass = microbatches * layers * width * width * 4
    # forward, and backward where it was not kept
    assert sum(one.payload * one.times for one in gathers) in (one_pass, 2 * one_pass)
    reduced = sum(
        one.payload * one.times
        for one in found
        if one.kind in ("all-reduce", "reduce-scatter") and one.payload > width
    )
    assert one_pass <= reduced <= 1.25 * one_pass


def test_the_least_that_fsdp_moves():
    mesh = make_mesh(data=2, fsdp=4)
    split = jax.ShapeDtypeStruct((64, 8), jnp.float32, sharding=NamedSharding(mesh, P("fsdp")))
    whole = jax.ShapeDtypeStruct((16,), jnp.float32, sharding=NamedSharding(mesh, P()))
    least = fsdp_minimum({"a": split, "b": whole}, microbatches=3, gathers=2, train=True)
    assert least.gather == 2 * 3 * 2 * 64 * 8 * 3 / 4
    once_a_step = 4 * (64 * 8 / 4) * 2 * (1 / 2) + 4 * 16 * 2 * (7 / 8)
    assert least.reduce == 3 * 4 * 64 * 8 * 3 / 4 + once_a_step
    forward = fsdp_minimum({"a": split}, microbatches=1, gathers=1, train=False)
    assert (forward.gather, forward.reduce) == (2 * 64 * 8 * 3 / 4, 0)
