"""Test that every tensor of the goldens is compared by a test.

A test fails unless it reads the keys that it declares (golden.py). So it is enough to check the
declarations. This works in any order, for any selection of tests and with any number of workers.
"""

import fnmatch
import importlib
from pathlib import Path

import golden
import pytest

for module in Path(__file__).parent.glob("test_golden_*.py"):
    if module.stem != Path(__file__).stem:
        importlib.import_module(module.stem)


@pytest.mark.parametrize("preset", golden.PRESETS)
def test_every_key_is_read(preset):
    read = {key for owner, key in golden.DECLARED if owner == preset}
    unread = set(golden.arrays(preset)) - read
    assert not unread, f"no test reads {sorted(unread)}"


def test_every_preset_is_listed():
    assert {file.parent.name for file in golden.ROOT.glob("*/golden.npz")} == set(golden.PRESETS)


def test_every_tolerance_is_of_use():
    """Each pattern is the first one that matches some key, so no entry is useless."""
    keys = [
        key
        for preset in golden.PRESETS
        for key in golden.arrays(preset)
        if key not in golden.meta(preset)["fp64_floor"]
    ]
    first = {
        next((pattern for pattern in golden.TOLERANCES if fnmatch.fnmatchcase(key, pattern)), None)
        for key in keys
    }
    assert not set(golden.TOLERANCES) - first


def test_a_key_that_is_declared_but_not_read_fails():
    declared = set(golden.DECLARED)
    try:

        @golden.reads("temb.*", presets=("micro",))
        def reads_only_one(g):
            _ = g["temb.t"]

    finally:
        golden.DECLARED.clear()
        golden.DECLARED.update(declared)
    (run,) = reads_only_one.pytestmark[0].args[1]
    with pytest.raises(
        AssertionError,
        match=r"declared but not read: \['temb\.256', 'temb\.32', 'temb\.320', 'temb\.64'\]",
    ):
        reads_only_one(*run.values)


def test_a_key_that_is_not_declared_cannot_be_read():
    with pytest.raises(KeyError, match=r"sigmas\.4 is not among the keys this test declares"):
        golden.Golden("micro", {"sigmas.5"})["sigmas.4"]


def test_a_value_outside_the_tolerance_fails():
    g = golden.Golden("micro", {"unet.main.out"})
    floor = g.meta["fp64_floor"]["unet.main.out"]["max_abs"]
    g.check("unet.main.out", g["unet.main.out"] + 29 * floor)
    with pytest.raises(AssertionError, match=r"unet\.main\.out"):
        g.check("unet.main.out", g["unet.main.out"] + 31 * floor)
    with pytest.raises(AssertionError, match="shape"):
        g.check("unet.main.out", g["unet.main.out"][:1])
    with pytest.raises(KeyError, match="no floor and no tolerance"):
        golden.tolerance("micro", "unknown.key")
