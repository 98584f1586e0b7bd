"""Test how the text of compiled modules is read: loops, trip counts, shapes and traffic.

The texts have the forms that the compilers print.
"""

from pathlib import Path

import pytest

from cv3jax.aot.collectives import collectives
from cv3jax.aot.hlo import Module, UnknownError
from cv3jax.aot.hlo_instruction import array_bytes
from cv3jax.aot.memory_traffic import traffic

HLO = Path(__file__).parent / "hlo"
# as the TPU compiler prints a step: no trip counts, groups by mesh, the reduce-scatter a fusion, a
# parameter gathered in the loop
TPU = (HLO / "tpu.txt").read_text()

# as the TPU compiler prints a gather that computation hides: in the fusion that starts it, and in
# each that runs during it
CHAIN = (HLO / "chain.txt").read_text()


def test_a_gather_printed_in_a_chain_of_fusions_is_one():
    (gather,) = collectives(Module(CHAIN))
    assert (gather.times, gather.payload, gather.parameters) == (1, 8 * 192 * 64 * 4, True)
    shard, both = 192 * 64 * 4, 2 * 32 * 32 * 4
    # the shard read, the whole written; and what runs during it
    assert traffic(Module(CHAIN), on_chip=True) == 9 * shard + both


@pytest.mark.parametrize(
    ("change", "times"),
    [
        (("%one = s32[] constant(1)", "%one = s32[] constant(2)"), 3),
        (("direction=LT", "direction=LE"), 6),
        (("%zero.3 = s32[] constant(0)", "%zero.3 = s32[] constant(3)"), 2),
        (("%five = s32[] constant(5)", "%five = s32[] constant(0)"), 0),
    ],
)
def test_a_loop_runs_as_often_as_its_counter_says(change, times):
    assert change[0] in TPU
    assert {one.times for one in collectives(Module(TPU.replace(*change)))} == {times}


@pytest.mark.parametrize(
    "change",
    [
        ("%next = s32[] add(%copy.i, %one)", "%next = s32[] custom-call(%copy.i)"),
        ("%five = s32[] constant(5)", '%five = s32[] custom-call(), custom_call_target="computed"'),
        ("%one = s32[] constant(1)", "%one = s32[] constant(0)"),
    ],
)
def test_a_loop_of_unknown_length_is_refused(change):
    assert change[0] in TPU
    with pytest.raises(UnknownError):
        collectives(Module(TPU.replace(*change)))


@pytest.mark.parametrize(
    ("shape", "size"),
    [
        ("bf16[2,3]{1,0:T(8,128)(2,1)S(1)}", 12),
        ("(f32[4]{0}, /*index=1*/s32[], pred[3])", 23),
        ("f8e4m3fn[7]", 7),
        ("s4[3]", 2),
        ("f32[0,5]", 0),
        ("token[]", 0),
        ("c64[2]", 16),
        ("u32[]{:S(2)}", 4),
    ],
)
def test_bytes_of_shapes(shape, size):
    assert array_bytes(shape) == size


def test_what_is_no_module_is_refused():
    with pytest.raises(ValueError, match="ENTRY"):
        Module("HloModule nothing\n")


def test_traffic_takes_loops_by_their_length_and_slices_by_their_size():
    gathered, row, act, wide, big, part = (
        2048 * 2048 * 2,
        128 * 2048 * 2,
        8 * 2048 * 4,
        32 * 2048 * 4,
        2048 * 2048 * 2,
        512 * 2048 * 2,
    )
    step = (
        3 * 4
        + 3 * 4
        - 4  # the counter: copied, added to; the constant is read
        + 2 * row
        + 4  # the slice of the stacked weights, and its index
        + row
        + gathered
        + act
        + wide
        + gathered
        + wide
        + big
        + big
        + part
        + act
        + part
        + act
    )
    condition_is_free, convert = 0, 5 * 128 * 2048 * (4 + 2)
    assert traffic(Module(TPU), on_chip=False) == pytest.approx(
        5 * step + convert + condition_is_free, rel=1e-6
    )
    on_chip = TPU.replace(
        "%all-gather.1 = bf16[1,2048,2048]{2,1,0}",
        "%all-gather.1 = bf16[1,2048,2048]{2,1,0:T(8,128)S(1)}",
    )
    assert (
        traffic(Module(TPU), on_chip=True) - traffic(Module(on_chip), on_chip=True)
        == 5 * 2 * gathered
    )
    assert traffic(Module(TPU), on_chip=False) == traffic(Module(on_chip), on_chip=False)
