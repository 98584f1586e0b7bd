"""Test the descriptions of hardware by name, their figures and the roofline."""

import importlib.util
import itertools

import pytest
from jax.experimental import topologies

from cv3jax.aot import topology
from cv3jax.aot.collectives import Collective
from cv3jax.aot.roofline import Roofline, chip_hours, mfu_bound, roofline
from cv3jax.distributed.chips import CHIPS, chip_of, group_bandwidth
from data_pipeline.io.errors import InputError


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("v5e:16x16", (16, 16)),
        ("v5e:4x2", (4, 2)),
        ("v5p:8x8x4", (8, 8, 4)),
        ("v5p:2x2x1", (2, 2, 1)),
        ("v5p:4x8x12", (4, 8, 12)),
        ("v6e:8x16", (8, 16)),
        ("h100:1x8x1", (1, 8, 1)),
        ("a100:2x4x8", (2, 4, 8)),
        ("rtx4090:1x1x1", (1, 1, 1)),
        ("a10g:1x1x8", (1, 1, 8)),
    ],
)
def test_names(name, shape):
    assert topology.parse(name) == (name.partition(":")[0], shape)


@pytest.mark.parametrize(
    ("name", "right"),
    [
        ("v5e", "16x16"),
        ("v5e:", "16x16"),
        ("v5e:3x3", "2x2, 2x4"),
        ("v5e:32x16", "16x16"),
        ("v5e:4x4x1", "16x16"),
        ("v5p:4x4", "4x4x4"),
        ("v5p:4x4x6", "multiples of 4"),
        ("v5p:4x4x28", "16x16x24"),
        ("v5p:0x4x4", "4x4x4"),
        ("v6e:16-16", "16x16"),
        ("v4:4x4x4", "v5e, v5p, v6e"),
        ("tpu", "v5e:16x16"),
        ("", "h100:1x8x1"),
        ("V5E:2x2", "v5e"),
        ("h100", "h100:1x8x1"),
        ("h100:8", "h100:1x8x1"),
        ("h200:1x0x8", "h200:1x8x1"),
    ],
)
def test_a_wrong_name_says_what_is_right(name, right):
    with pytest.raises(InputError, match=f"--topology {name}.*{right}"):
        topology.parse(name)


@pytest.mark.parametrize(
    ("name", "missing", "command"),
    [
        ("v5e:2x2", "libtpu", "make setup-tpu"),
        ("h100:1x1x1", "jax_cuda", "make setup-gpu"),
    ],
)
def test_without_its_compiler_a_topology_says_how_to_get_it(name, missing, command, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda module: None if module.startswith(missing) else real(module),
    )
    with pytest.raises(InputError, match=command):
        topology.load(name)


def test_each_gpu_has_a_description_of_its_memory():
    for name, chip in CHIPS.items():
        if not chip.tpu:
            described = (topology.descriptions() / f"{name}.textproto").read_text()
            size = int(described.split("device_memory_size: ")[1].split()[0])
            assert chip.memory <= size < 1.1 * chip.memory
            bandwidth = float(described.split("memory_bandwidth: ")[1].split()[0])
            assert bandwidth == pytest.approx(chip.bandwidth, rel=1e-3)


def block(*sizes):
    """Return the places of a group that extends so far along each axis from the first place."""
    return list(itertools.product(*map(range, sizes)))


def test_bandwidth_of_a_group_is_that_of_the_axes_it_extends_over():
    v5e, v5p = CHIPS["v5e"], CHIPS["v5p"]
    assert group_bandwidth(v5e, (16, 16), block(16, 1, 1)) == 2 * 50e9
    assert group_bandwidth(v5e, (16, 16), block(16, 16, 1)) == 4 * 50e9
    # sixteen too, but they close no ring
    assert group_bandwidth(v5e, (16, 16), block(4, 4, 1)) == 2 * 50e9
    assert group_bandwidth(v5e, (16, 16), block(1, 8, 1)) == 50e9
    # another pair sends the other way
    assert group_bandwidth(v5e, (16, 16), block(1, 2, 1)) == 2 * 50e9
    assert group_bandwidth(v5e, (4, 4), block(4, 1, 1)) == 50e9  # too short to wrap round
    assert group_bandwidth(v5p, (8, 8, 4), block(8)) == 2 * 100e9
    assert group_bandwidth(v5p, (8, 8, 4), block(1, 8, 4)) == 4 * 100e9
    assert group_bandwidth(v5p, (8, 8, 4), block(8, 8, 4)) == 6 * 100e9
    assert group_bandwidth(v5p, (8, 8, 4), block(4, 8, 4)) == 5 * 100e9


def test_gpus_have_nvlink_within_a_partition_and_eight():
    h100 = CHIPS["h100"]
    assert [group_bandwidth(h100, (1, 8, 1), block(1, size, 1)) for size in (2, 8)] == [
        450e9,
        450e9,
    ]
    assert [
        group_bandwidth(h100, (4, 8, 1), block(*sizes))
        for sizes in ((1, 8, 1), (4, 1, 1), (2, 2, 1))
    ] == [450e9, 50e9, 50e9]
    # eight in each host
    assert [
        group_bandwidth(h100, (2, 4, 8), block(*sizes)) for sizes in ((1, 1, 8), (1, 2, 1))
    ] == [450e9, 50e9]
    assert group_bandwidth(h100, (4, 2, 1), block(4, 1, 1)) == 50e9


def test_cards_without_nvlink_have_pcie_within_a_machine():
    for name, network in (("rtx4090", 1.25e9), ("a10g", 100e9 / 8 / 8)):
        chip = CHIPS[name]
        assert group_bandwidth(chip, (1, 1, 8), block(1, 1, 8)) == 31.5e9
        assert group_bandwidth(chip, (2, 1, 4), block(2, 1, 1)) == network


def test_a_card_is_found_by_the_name_that_jax_has_for_it():
    assert chip_of("NVIDIA GeForce RTX 4090") is CHIPS["rtx4090"]
    assert chip_of("NVIDIA A10G") is CHIPS["a10g"]
    assert chip_of("NVIDIA GeForce RTX 4090 D") is None


def moved(groups, wire=1e9, times=10):
    return Collective("all-gather", groups, times, 0, wire, "bf16", True, "")


def test_a_collective_takes_the_time_of_its_slowest_group():
    places = block(4, 8, 1)  # the default mesh of h100:4x8x1: data 4 × fsdp 8
    hosts = tuple(tuple(range(first, first + 8)) for first in range(0, 32, 8))
    across = tuple(tuple(range(first, 32, 8)) for first in range(8))
    ring = tuple((i, (i + 1) % 32) for i in range(32))  # most of its pairs are within a host
    alone = tuple((i,) for i in range(32))

    def seconds(*groups):
        return roofline(
            CHIPS["h100"],
            (4, 8, 1),
            places,
            flops=0,
            traffic=0,
            moved=[moved(one) for one in groups],
        ).interconnect

    assert seconds(hosts) == pytest.approx(10 * 1e9 / 450e9)
    assert seconds(across) == seconds(ring) == pytest.approx(10 * 1e9 / 50e9)
    assert seconds(hosts, across) == pytest.approx(seconds(hosts) + seconds(across))
    assert seconds(alone) == 0


def test_the_roof_is_the_slowest_and_bounds_the_mfu():
    chip, gather = (
        CHIPS["v5e"],
        moved(tuple(tuple(range(first, first + 16)) for first in range(0, 256, 16))),
    )
    roof = roofline(
        chip,
        (16, 16),
        block(16, 16, 1),
        flops=256 * 197 * 10**12,
        traffic=int(819e9 * 0.5),
        moved=[gather],
    )
    assert roof == pytest.approx((1.0, 0.5, 0.1))
    assert roof.seconds == roof.compute
    # a quarter is recomputed
    assert mfu_bound(chip, 256, 256 * 197 * 10**12 * 3 // 4, roof) == pytest.approx(0.75)
    slow = Roofline(1.0, 4.0, 0.1)
    assert mfu_bound(chip, 256, 256 * 197 * 10**12, slow) == pytest.approx(0.25)


def test_chip_hours_of_a_recipe():
    chip = CHIPS["v5p"]
    useful = 64 * 459 * 10**12  # a second of 64 chips at their peak
    hours = chip_hours(chip, 64, useful, Roofline(2.0, 1.0, 0.0), steps=3600, mfu=0.4)
    assert hours["chip_hours_at_roofline"] == pytest.approx(2 * 64)
    assert hours["chip_hours_at_mfu"] == pytest.approx(64 / 0.4)
    assert hours["days_at_mfu"] == pytest.approx(1 / 0.4 / 24)


def test_a_plug_in_that_does_not_load_is_named(monkeypatch):
    """JAX then reports an unknown platform.

    The message says what installs a plug-in that fits.
    """
    get = topologies.get_topology_desc
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    monkeypatch.setattr(
        topologies, "get_topology_desc", lambda **given: get(**{**given, "platform": "not_loaded"})
    )
    with pytest.raises(
        InputError,
        match=(
            "h100:1x8x1: JAX could not load its CUDA plug-in; `make setup-gpu` installs one that"
            " fits"
        ),
    ):
        topology.load("h100:1x8x1")
