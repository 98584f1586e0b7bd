"""Test what an engine says when it is opened, what it refuses, and what it foretells."""

import dataclasses
import re
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import random_cascades as rc
from random_cascades import drawn

from cv3jax.cascade import memory
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sizes import Size
from cv3jax.distributed.mesh import make_mesh
from cv3jax.serving.engine import compiling
from cv3jax.serving.engine.estimates import Estimates
from cv3jax.serving.engine.fingerprint import fingerprint
from cv3jax.serving.engine.lanes import START, STEP, Lane
from cv3jax.serving.engine.opening import EngineSettings, engine_of, open_engine
from cv3jax.serving.engine.verify import Probes
from cv3jax.serving.orders import Choice
from data_pipeline.io.errors import InputError

BASE = (Size(16, 16),)
STEPS = Lane(STEP, "base", BASE[0])


def test_an_engine_says_what_it_compiles_and_what_it_found(small_engine):
    engine, said = small_engine
    assert engine.sizes == [rc.chain(16, 32), rc.chain(16, 32, 64), rc.chain(16)]
    lanes = engine.capabilities["lanes"]
    assert said[0] == f"compiling for 4 rows: {', '.join(lanes)}"
    assert re.fullmatch(r"comparing the bits of 4 rows; compiled in \d+ s", said[1])
    lines = said[-len(lanes) :]
    assert [line.split(":")[0] for line in lines] == list(lanes)
    assert len(lanes) == 1 + 3 * 3
    for line, facts in zip(lines, lanes.values(), strict=True):
        assert facts["rows"][-1] == 4
        shapes = [f"{shape}" for shape in facts["rows"]]
        assert list(facts["seconds"]) == list(facts["temporary_bytes"]) == shapes
        assert all(0 < seconds < 60 for seconds in facts["seconds"].values())
        assert ("gives other bits" in line) == (facts["differs"] is not None)
        assert facts["differs"] is None or facts["differs"] < facts["rows"][0]
        assert re.search(r" ms for 4(;|$)", line)


def test_the_memory_is_that_of_parameters_and_pools(small_engine, small_cascade):
    known = small_engine[0].capabilities["memory"]
    leaves = jax.tree.leaves(small_cascade.params)
    assert known["parameters_bytes"] == sum(leaf.nbytes for leaf in leaves)
    latents = 8 * 4 * 4 * 4 * (2 * 4**2 + 3 * 8**2 + 3 * 16**2)  # 32 slots of 4 channels of float32
    depth = 4  # of transformers in each stage, whose keys and values have 32 channels
    texts = 2 * 8 * rc.LENGTH * 2 * 32 * 4 * depth
    assert known["pools_bytes"] == latents + texts
    assert known["largest_temporary_bytes"] > 0


def test_the_estimate_grows_with_the_queue_and_shrinks_as_it_is_drawn(small_engine):
    engine = small_engine[0]
    long = [rc.order(f"{n}", rc.chain(16), n, base=Choice(40, 3.0)) for n in range(9)]
    one, nine = engine.seconds(long[:1]), engine.seconds(long)
    assert 40 * engine.capabilities["lanes"][str(STEPS)]["seconds"]["4"] < 3 * one
    assert 2 * one < nine < 9 * one  # units of four rows
    assert engine.remaining("0") is None
    heard = [rc.Heard() for _ in long]
    for order, listener in zip(long, heard, strict=True):
        engine.submit(order, listener)
    first, last = engine.remaining("0"), engine.remaining("8")
    assert last > 1.5 * first  # eight rows are before it, two full units for each of its steps
    late = engine.seconds([rc.order("late", rc.chain(16), base=Choice(40, 3.0))])
    short = engine.seconds([rc.order("short", rc.chain(16), base=Choice(1, 3.0))])
    assert short < late / 2  # it goes before them all
    while len(heard[8].events) < 20:
        time.sleep(0.01)
    assert engine.remaining("8") < last
    for order in long:
        engine.cancel(order.id)
    for listener in heard:
        listener.wait()
    assert engine.remaining("8") is None


def test_gauges_count_units_rows_and_pictures(small_engine):
    engine = small_engine[0]
    before = engine.gauges
    drawn(engine, *(rc.order(f"{n}", rc.chain(16), n) for n in range(4)))
    after = engine.gauges
    assert after["pictures_total"] - before["pictures_total"] == 4
    assert after["steps_total"] - before["steps_total"] == 16
    rows, units = (
        f'{name}{{lane="base step 16×16"}}' for name in ("unit_rows_total", "units_total")
    )
    assert after[rows] - before[rows] == 16
    assert 4 <= after[units] - before[units] <= 16
    assert after["busy_seconds_total"] > before["busy_seconds_total"]
    assert 0 < after["occupancy"] <= 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (EngineSettings(()), "an engine needs at least one size"),
        (EngineSettings((Size(20, 30),)), "size 20×30: height and width must be multiples of"),
        (EngineSettings(BASE, tile=12), "base stage: tile 12: give a multiple of 8 pixels"),
        (EngineSettings(BASE, batch=0), "batch 0: give a multiple of 1"),
    ],
)
def test_settings_that_cannot_be_are_refused(small_cascade, settings, message):
    with pytest.raises(InputError, match=message):
        engine_of(small_cascade, settings, lambda line: None)


def test_a_batch_that_the_mesh_cannot_share_is_refused():
    settings = EngineSettings(BASE, batch=3, mesh=make_mesh(data=2, devices=jax.devices()[:2]))
    with pytest.raises(InputError, match="batch 3: give a multiple of 2, the number of devices"):
        engine_of(rc.cascade(settings.mesh), settings, lambda line: None)


def test_a_cascade_without_a_text_encoder_is_refused(small_cascade):
    known = dataclasses.replace(small_cascade.description, t5=None)
    with pytest.raises(InputError, match="this cascade has no t5, without which it draws nothing"):
        engine_of(Cascade(known, {}, None), EngineSettings(BASE), lambda line: None)


def test_too_little_memory_is_said_before_anything_runs(small_cascade, monkeypatch):
    monkeypatch.setattr(compiling, "room", lambda mesh: 1000)
    with pytest.raises(memory.NoRoomError, match=r"units of 2 rows of text need 0.00 GB, of 0.00"):
        engine_of(small_cascade, EngineSettings(BASE, batch=2), lambda line: None)
    with pytest.raises(
        memory.NoRoomError, match=r"GB of parameters need .* give a smaller --batch"
    ):
        open_engine("scenes", EngineSettings(), lambda line: None)


def test_a_device_that_runs_out_of_memory_is_an_error_of_the_input(small_cascade, monkeypatch):
    def none_left(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory")

    monkeypatch.setattr(compiling, "room", lambda mesh: sys.maxsize)
    monkeypatch.setattr(Probes, "_runs", none_left)
    with pytest.raises(memory.NoRoomError, match="units of 2 rows of text need more memory than"):
        engine_of(small_cascade, EngineSettings(BASE, batch=2), lambda line: None)


@pytest.mark.parametrize(("shapes", "used"), [((4,), None), ((2,), [4, 1]), ((1,), [4, 2])])
def test_shapes_whose_rows_touch_each_other_are_not_used(small_engine, small_cascade, shapes, used):
    lane = Lane(START, "base", BASE[0])
    assert small_engine[0].capabilities["lanes"][str(lane)]["rows"] == [1, 2, 4]
    # the engine is idle, so that its pools are free
    store = small_engine[0]._store
    probes = Probes(small_cascade.description, store, 4)

    def program(shape):
        """Return a program that adds a hair of each row's neighbour to it, at some shapes."""
        one = compiling.compiled(lane, store, shape, rc.LENGTH, None)

        def run(params, changed, kept, packed):
            made, out = one.run(params, changed, kept, packed)
            if shape in shapes:
                rows = packed.slots[:, 1]
                hair = 1e-6 * made["x"][jnp.roll(rows, 1)] + 1e-7
                made = {**made, "x": made["x"].at[rows].add(hair, mode="drop")}
            return made, out

        return one._replace(run=run)

    if used is None:
        with pytest.raises(InputError, match="base start 16×16 with 4 rows: a row's result depen"):
            probes.check(program(4))
        return
    assert [shape for shape in (4, 2, 1) if probes.check(program(shape))] == used
    found = probes.found[lane]
    assert sorted(found.seconds, reverse=True) == used
    assert found.differs == shapes[0]
    # what other lanes read is the reference's again
    marks = np.asarray(fingerprint(store.written(lane)))[:8]
    assert [mark.tobytes() for mark in marks] == [found.reference[n] for n in range(8)]


def test_a_fingerprint_is_of_every_bit_and_its_place():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 5)), jnp.float32)
    marks = np.asarray(fingerprint({"a": x, "b": x[:, 0]}))
    assert marks.shape == (4, 2)
    assert len(np.unique(marks, axis=0)) == 4
    nudged = x.at[1, 2, 4].set(jnp.nextafter(x[1, 2, 4], jnp.inf))
    swapped = x.at[2, 0, 0].set(x[2, 0, 1]).at[2, 0, 1].set(x[2, 0, 0])
    for other, row in ((nudged, 1), (swapped, 2)):
        found = np.asarray(fingerprint({"a": other, "b": x[:, 0]}))
        assert [row] == [n for n in range(4) if (found[n] != marks[n]).any()]
    np.testing.assert_array_equal(fingerprint({"a": x.swapaxes(0, 1)}, 1), fingerprint({"a": x}))


def test_estimates_are_of_the_smallest_shape_that_holds_the_rows():
    known, lane = Estimates(), STEPS
    for shape, seconds in ((4, 3.0), (1, 1.0), (2, 2.0)):
        known.measured(lane, shape, seconds)
    assert [known.shape(lane, n) for n in (1, 2, 3, 4)] == [1, 2, 4, 4]
    assert list(known.shapes(lane)) == [1, 2, 4]
    assert known.unit(lane, 3) == 3.0
    assert known.alone([(lane, 10)]) == 10.0
    assert known.alone([(lane, 10)], 9) == 10 * (3.0 + 3.0 + 1.0)
    assert known.share([(lane, 10)]) == 10 * 3.0 / 4
    known.note(lane, 4, 13.0)
    assert known.unit(lane, 3) == pytest.approx(4.0)
