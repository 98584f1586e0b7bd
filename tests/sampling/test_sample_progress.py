"""Test the progress of sampling: finished steps and compilations."""

import types

import described
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_stages import FIELDS, placed

from cv3jax.cascade import stage_sampler
from cv3jax.cascade.stage_network import SamplerOptions
from cv3jax.cascade.stage_sampler import make_stage_sampler, make_stage_steps, sample_stage
from cv3jax.distributed import backend
from cv3jax.distributed.mesh import make_mesh
from cv3jax.sampling import batches
from data_pipeline.io import progress

STEPS = 5
COMPILED = "/jax/core/compile/backend_compile_duration"


@pytest.mark.parametrize("kind", ["base", "relay"])
@pytest.mark.parametrize("mesh", [None, {"data": 2, "context": 2}])
def test_steps_are_reported_and_the_latents_are_the_same(mesh, kind, monkeypatch):
    mesh = mesh and make_mesh(**mesh, devices=jax.devices()[:4])
    monkeypatch.setattr(stage_sampler, "EVERY", 0.0)  # after every step
    stage = described.stage(kind, model=FIELDS)
    args = placed(mesh, kind)
    options = SamplerOptions(STEPS, mesh=mesh)
    whole = make_stage_sampler(stage, options)(*args)
    parts, reported, compiled = make_stage_steps(stage, options), [], []
    alone = sample_stage(parts, *args, None)
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, *_, **__: compiled.append(event) if event == COMPILED else None
    )
    split = sample_stage(parts, *args, lambda *done: reported.append(done))
    assert reported == [(done, STEPS) for done in range(1, STEPS + 1)]
    assert not compiled, "the steps after the first are another program"
    np.testing.assert_array_equal(split, alone)
    np.testing.assert_array_equal(alone, whole)
    assert split.sharding.is_equivalent_to(alone.sharding, 4)


def test_as_many_steps_as_fit_into_a_second_are_one_call(monkeypatch):
    now, calls, reported = 0.0, [], []

    def run(*args):
        nonlocal now
        begin, end = map(int, args[-1])
        calls.append((begin, end))
        now += 0.1 * (end - begin)
        return args[3]

    clock = types.SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(stage_sampler, "time", clock)
    sampler = stage_sampler.StageSampler(25, lambda low, noise: (noise, noise), run)
    args = (None, jnp.zeros(2), None, jnp.zeros(2), None, None)
    sample_stage(sampler, *args, lambda *done: reported.append(done))
    assert calls in ([(0, 1), (1, 11), (11, 21), (21, 25)], [(0, 1), (1, 10), (10, 20), (20, 25)])
    assert reported[-1] == (25, 25)
    calls.clear()
    sample_stage(sampler, *args, None)
    assert calls == [(0, 25)]


def test_a_bar_shows_steps_and_what_is_left(monkeypatch):
    clock = iter([90.0, 92.0, 99.8, 100.0, 101.0])
    monkeypatch.setattr(batches, "time", types.SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.bar(4, "sample", "picture") as bar:
        tell, shown = batches.steps_on(bar), []
        for stage, done, count in (
            ("base", 1, 50),  # after a compilation
            ("base", 11, 50),
            ("base", 50, 50),
            ("relay", 1, 12),
            ("relay", 2, 12),
        ):
            tell(stage, done, count)
            shown.append(bar.postfix)
    assert shown == [
        "base step 1/50",
        "base step 11/50, 00:07 left",
        "base step 50/50",
        "relay step 1/12",
        "relay step 2/12, 00:10 left",
    ]


def test_a_compilation_is_announced_once(monkeypatch, capsys):
    monkeypatch.setattr(progress, "SOON", 0.0)
    traced = []

    @jax.jit
    def program(params, x):
        traced.append(x.shape)
        return params["a"] * x

    call = backend.announced(program, "the decoder")
    for size in (2, 2, 3):
        assert call({"a": 2.0}, np.ones(size)).sum() == 2 * size
    said = capsys.readouterr().err.splitlines()
    assert said.count("cv3jax: compiling the decoder ...") == 2
    assert traced == [(2,), (3,)]
