"""Test that a changed bit in anything that is stored is noticed or changes nothing."""

import flips
import pytest

NAMES = (
    "records",
    "feature caches",
    "parts",
    "packaged weights",
    "checkpoints",
    "journals",
    ".pt",
    "safetensors",
)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_twenty_flips_are_noticed_or_harmless(name):
    if name == ".pt":
        pytest.importorskip("torch")
    counts, failures = flips.run(flips.campaigns()[name], 20, seed=0)
    assert failures == []
    assert counts.total() == 20
    assert counts[flips.NOTICED] > 0


@pytest.mark.slow
def test_no_campaign_is_left_out():
    assert set(flips.campaigns()) == set(NAMES)
