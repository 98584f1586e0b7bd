"""Test the benchmark of the UNet beside PyTorch: what it counts, its weights and its bars."""

import importlib
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cv3jax.cascade.parts import model_shapes
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.kernels import flops
from cv3jax.models.unet import UNet


@pytest.fixture
def benchmark(monkeypatch):
    """Return a function that imports a script of benchmarks/ as a module."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module


def test_the_unet_has_the_attention_of_its_device(benchmark, monkeypatch):
    from jax._src.cudnn import fused_attention_stablehlo as cudnn

    monkeypatch.setattr(cudnn, "check_cudnn_version", lambda: 91300)
    monkeypatch.setattr(cudnn, "check_compute_capability", lambda _: True)
    script = benchmark("unet_sides")
    small = script.model(script.Case("forward", "small", "float32"))
    ours = script.attending(small, "cpu").attend
    assert "custom_vjp_call" in str(jax.make_jaxpr(ours)(*3 * [jnp.ones((1, 8, 1, 32))]))
    net = UNet(
        channels=64, channel_mult=(1, 2), res_blocks=1, depth=(0, 1), mid_depth=1, dtype="bfloat16"
    )
    positions, width = script.SIZES["full"].text
    params = model_shapes(net, width)

    def run(params, x, text):
        made = script.attending(net, "gpu")
        return made.apply(
            {"params": params},
            x,
            jnp.zeros(2, jnp.int32),
            make_cond(text, picture_sizes(2, 64, 64)),
        )

    x, text = (
        jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((2, 8, 8, 4), (2, positions, width))
    )
    counted = flops.count(run, params, x, text)
    blocks, rows, width = 1 + 1 + 2, 4 * 4, 128  # down, middle, up
    # of keys 16 and 225, padded
    assert counted.kinds["attention kernel"] == blocks * 2 * 2 * 2 * rows * (128 + 256) * width


@pytest.mark.parametrize("what", ["forward", pytest.param("train", marks=pytest.mark.slow)])
def test_our_side_counts_the_flops_of_what_it_times(what, benchmark, monkeypatch, tmp_path):
    script, measure = benchmark("unet_sides"), benchmark("measure")
    case, served = script.Case(what, "tiny", "float32"), []
    monkeypatch.setattr(measure, "serve", lambda ready, call: served.extend([ready, call()]))
    script.ours(case, tmp_path)
    net = script.model(case)
    ready, seconds = served
    batch = script.inputs(case)
    forward = flops.count(
        lambda params, x, index, text: net.apply(
            {"params": params}, x, index, make_cond(text, picture_sizes(2, 64, 64))
        ),
        script.shapes_of(net, case),
        batch["x"],
        batch["index"],
        batch["text"],
    ).total
    assert (
        ready["flops"] == forward
        if what == "forward"
        else 2.8 * forward < ready["flops"] < 3 * forward
    )
    assert seconds > 0
    held = 4 * ready["parameters"] * (1 if what == "forward" else 4)  # with moments and EMA
    assert held < ready["memory"] < 4 * held


def test_random_parameters_are_the_same_everywhere_and_none_is_zero(benchmark):
    script, sides = benchmark("random_weights"), benchmark("unet_sides")
    case = sides.Case("forward", "tiny", "float32")
    shapes = sides.shapes_of(sides.model(case), case)
    made = jax.tree.leaves_with_path(script.random_params(shapes))
    again = jax.tree.leaves(script.on_device(shapes))
    for (path, leaf), other, like in zip(made, again, jax.tree.leaves(shapes), strict=True):
        np.testing.assert_array_equal(leaf, other)
        assert leaf.shape == like.shape
        assert leaf.dtype == np.float32
        assert (leaf != 0).all()
        if path[-1].key == "kernel" and leaf.size > 1000:
            fan_in = np.prod(leaf.shape[:-1]) if leaf.ndim == 4 else leaf.shape[-2]
            assert leaf.std() * fan_in**0.5 == pytest.approx(1, abs=0.1)


def row(what, ratio, size="full", seconds=1.0, rival="torch.compile"):
    spread = sys.modules["measure"].spread
    return {
        "what": what,
        "size": size,
        "flops": 500e12,
        "ratio": {rival: spread([ratio])},
        "seconds": {rival: {"cv3jax": [seconds] * 3, rival: [seconds / ratio] * 3}},
    }


def test_mfu_is_of_the_chips_peak_and_has_a_bar(benchmark):
    script = benchmark("unet")
    assert "mfu" not in script.with_mfu(row("train", 0.7), "cpu")
    slow, fast = (
        script.with_mfu(row("train", 0.7, seconds=seconds), "NVIDIA H200") for seconds in (1.0, 0.8)
    )
    assert slow["mfu"].median == pytest.approx(500 / 989)
    assert slow["mfu_beside"]["torch.compile"].median == pytest.approx(350 / 989)
    assert script.missed([fast], "gpu", "torch.compile") == []
    assert ["under 0.6" in words for words in script.missed([slow], "gpu", "torch.compile")] == [
        True
    ]
    other = [
        script.with_mfu(row(*what), "NVIDIA H200")
        for what in (("forward", 0.7), ("train", 0.7, "medium"))
    ]
    assert script.missed(other, "gpu", "torch.compile") == []  # the bar is of the full train step
    # a chip whose peak is not known
    assert script.missed([row("train", 0.7)], "gpu", "torch.compile") == []
    assert "forward 0.9" in script.missed([row("forward", 0.9), fast], "gpu", "torch.compile")[0]
    assert script.missed([row("train", 0.9, rival="torch")], "cpu", "torch") == []
