"""Hardware by name, its figures, and the roofline over them."""

import importlib.util

import pytest

from cv3jax import topology
from cv3jax.chips import CHIPS, group_bandwidth
from cv3jax.collectives import Collective
from cv3jax.roofline import Roofline, chip_hours, mfu_bound, roofline
from data_pipeline.errors import InputError


@pytest.mark.parametrize(("name", "shape"), [
    ("v5e:16x16", (16, 16)), ("v5e:4x2", (4, 2)), ("v5p:8x8x4", (8, 8, 4)), ("v5p:2x2x1", (2, 2, 1)), ("v5p:4x8x12", (4, 8, 12)),
    ("v6e:8x16", (8, 16)), ("h100:1x8x1", (1, 8, 1)), ("a100:2x4x8", (2, 4, 8)),
])  # fmt: skip
def test_names(name, shape):
    assert topology.parse(name) == (name.partition(":")[0], shape)


@pytest.mark.parametrize(("name", "right"), [
    ("v5e", "16x16"), ("v5e:", "16x16"), ("v5e:3x3", "2x2, 2x4"), ("v5e:32x16", "16x16"), ("v5e:4x4x1", "16x16"),
    ("v5p:4x4", "4x4x4"), ("v5p:4x4x6", "multiples of 4"), ("v5p:4x4x28", "16x16x24"), ("v5p:0x4x4", "4x4x4"), ("v6e:16-16", "16x16"),
    ("v4:4x4x4", "v5e, v5p, v6e"), ("tpu", "v5e:16x16"), ("", "h100:1x8x1"), ("V5E:2x2", "v5e"),
    ("h100", "h100:1x8x1"), ("h100:8", "h100:1x8x1"), ("h200:1x0x8", "h200:1x8x1"),
])  # fmt: skip
def test_a_wrong_name_says_what_is_right(name, right):
    with pytest.raises(InputError, match=f"--topology {name}.*{right}"):
        topology.parse(name)


@pytest.mark.parametrize(("name", "missing", "command"), [
    ("v5e:2x2", "libtpu", "make setup-tpu"), ("h100:1x1x1", "jax_cuda", "make setup-gpu"),
])  # fmt: skip
def test_without_its_compiler_a_topology_says_how_to_get_it(name, missing, command, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda module: None if module.startswith(missing) else real(module))
    with pytest.raises(InputError, match=command):
        topology.load(name)


def test_each_gpu_has_a_description_of_its_memory():
    for name, chip in CHIPS.items():
        if not chip.tpu:
            described = (topology.descriptions() / f"{name}.textproto").read_text()
            size = int(described.split("device_memory_size: ")[1].split()[0])
            assert chip.memory <= size < 1.1 * chip.memory


def test_bandwidth_of_a_group_is_that_of_its_axes():
    v5e, v5p, h100 = CHIPS["v5e"], CHIPS["v5p"], CHIPS["h100"]
    assert group_bandwidth(v5e, (16, 16), 16) == 2 * 50e9
    assert group_bandwidth(v5e, (16, 16), 256) == 4 * 50e9
    assert group_bandwidth(v5e, (4, 4), 4) == 50e9  # too short to wrap round
    assert group_bandwidth(v5p, (8, 8, 4), 8) == 2 * 100e9
    assert group_bandwidth(v5p, (8, 8, 4), 32) == 4 * 100e9
    assert group_bandwidth(v5p, (8, 8, 4), 256) == 6 * 100e9
    assert group_bandwidth(v5p, (8, 8, 4), 128) == 6 * 100e9
    assert group_bandwidth(v5e, (1, 1), 1) > 0
    assert [group_bandwidth(h100, (1, 8, 1), group) for group in (2, 8)] == [450e9, 450e9]
    assert [group_bandwidth(h100, (2, 8, 1), group) for group in (8, 16)] == [450e9, 50e9]
    assert group_bandwidth(h100, (4, 2, 1), 4) == 50e9


def test_the_roof_is_the_slowest_and_bounds_the_mfu():
    chip = CHIPS["v5e"]
    moved = [Collective("all-gather", 16, 10, 0, 1e9, "bf16", True, "")]
    roof = roofline(chip, (16, 16), 256, flops=256 * 197 * 10**12, traffic=int(819e9 * 0.5), moved=moved)
    assert roof == pytest.approx((1.0, 0.5, 0.1))
    assert roof.seconds == roof.compute
    assert mfu_bound(chip, 256, 256 * 197 * 10**12 * 3 // 4, roof) == pytest.approx(0.75)  # a quarter is recomputed
    slow = Roofline(1.0, 4.0, 0.1)
    assert mfu_bound(chip, 256, 256 * 197 * 10**12, slow) == pytest.approx(0.25)


def test_chip_hours_of_a_recipe():
    chip = CHIPS["v5p"]
    useful = 64 * 459 * 10**12  # a second of 64 chips at their peak
    hours = chip_hours(chip, 64, useful, Roofline(2.0, 1.0, 0.0), steps=3600, mfu=0.4)
    assert hours["chip_hours_at_roofline"] == pytest.approx(2 * 64)
    assert hours["chip_hours_at_mfu"] == pytest.approx(64 / 0.4)
    assert hours["days_at_mfu"] == pytest.approx(1 / 0.4 / 24)
