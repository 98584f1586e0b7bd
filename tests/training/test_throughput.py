"""Test what a log line says of speed: images, FLOPs, MFU, learning rates and memory."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import toy_runs

from cv3jax.distributed.chips import CHIPS
from cv3jax.optim.learning_rate import learning_rate
from cv3jax.training.goodput import Account
from cv3jax.training.metrics import read_lines
from cv3jax.training.throughput import Speed, Throughput, flops_of, grouped


def devices(kind, count=2, stats=None):
    return [
        types.SimpleNamespace(device_kind=kind, process_index=0, memory_stats=lambda: stats)
        for _ in range(count)
    ]


def test_mfu_is_the_flops_of_each_chip_over_the_peak_of_its_data_sheet():
    speed = Throughput(8, devices("TPU v5 lite"))
    for flops in (4 * 10**12, 2 * 10**12):
        speed.count(flops)
    line = speed.line(0.5)
    assert line == {
        "images_per_second": 32.0,
        "images_per_second_per_chip": 16.0,
        "tflops_per_chip": 6.0,
        "mfu": pytest.approx(6e12 / CHIPS["v5e"].flops),
    }
    speed.count(10**12)  # the next line begins anew
    assert speed.line(1.0)["images_per_second"] == 8.0


def test_what_is_not_known_is_absent():
    speed = Throughput(8, devices("cpu"))
    speed.count(10**12)
    assert "mfu" not in speed.line(1.0)  # a CPU has no data sheet
    speed = Throughput(8, devices("TPU v5 lite"))
    speed.count(10**12)
    speed.count(None)
    assert set(speed.line(1.0)) == {"images_per_second", "images_per_second_per_chip"}
    assert speed.line(0.0) == {}
    assert "memory_device_used_gb" not in speed.memory()


def test_the_fullest_device_is_shown():
    many = devices("gpu", 1, {"bytes_in_use": 10**9, "peak_bytes_in_use": 3 * 10**9})
    many += devices("gpu", 1, {"bytes_in_use": 2 * 10**9})
    found = Throughput(1, many).memory()
    assert (found["memory_device_used_gb"], found["memory_device_peak_gb"]) == (2.0, 3.0)
    assert 0.01 < found["memory_host_gb"] < 100


def test_a_scan_of_microbatches_counts_each_of_them():
    def step(w, x):
        return jax.lax.scan(lambda total, part: (total + (part @ w).sum(), None), 0.0, x)[0]

    shapes = (jnp.ones((4, 5)), jnp.ones((3, 2, 4)))
    jitted = jax.jit(step)
    assert flops_of([(jitted, shapes)]) == 3 * 2 * 2 * 4 * 5
    # XLA's own count has one microbatch only
    assert jitted.lower(*shapes).compile().cost_analysis()["flops"] < 2 * 2 * 2 * 4 * 5
    endless = jax.jit(lambda w: jax.lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ x, w))
    assert flops_of([(endless, (jnp.ones((4, 4)),))]) is None


@pytest.mark.parametrize("decay", ["constant", "linear", "cosine"])
def test_the_logged_learning_rate_is_the_optimizer_s(decay):
    given = {"warmup": 3, "decay": decay, "steps": 9, "final": 0.1}
    device, host = learning_rate(2e-3, **given), learning_rate(2e-3, **given, xp=np)
    for step in range(12):
        np.testing.assert_allclose(host(step), device(step), rtol=1e-6)
    tx = optax.scale_by_learning_rate(device)
    state = tx.init(jnp.ones(()))
    for update in range(1, 5):
        applied, state = tx.update(jnp.ones(()), state)
        np.testing.assert_allclose(host(update - 1), -applied, rtol=1e-6)


def test_each_group_has_its_own_rate():
    optim = types.SimpleNamespace(factors=(("mid_*", 0.5),))
    assert grouped(optim, lambda done, skipped: done - skipped)(5, 1) == {"lr": 4, "lr/mid_*": 2.0}


def test_the_lines_of_a_run_have_them(tmp_path, monkeypatch):
    work, state = toy_runs.toy_work()
    work = toy_runs.dataclasses.replace(
        work, speed=Speed(8, lambda batch: 96, lambda done, skipped: {"lr": done / 10})
    )
    busy = []
    line = Account.line
    monkeypatch.setattr(Account, "line", lambda self: busy.append(self.busy()) or line(self))
    toy_runs.train_loop(work, tmp_path, state, toy_runs.CADENCE, {})
    lines = read_lines(tmp_path / "metrics.jsonl")
    assert [one["step"] for one in lines] == [2, 4, 6, 8]
    assert [one["lr"] for one in lines] == [0.1, 0.3, 0.5, 0.7]
    for one, seconds in zip(lines, busy, strict=True):
        assert one["images_per_second"] == pytest.approx(16 / seconds)
        assert one["tflops_per_chip"] == pytest.approx(2 * 96 / seconds / 1e12)
        assert one["memory_host_gb"] > 0
        assert "mfu" not in one
