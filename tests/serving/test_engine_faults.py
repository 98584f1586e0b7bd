"""Test that the engine outlives failures of the device, of listeners, and its own end."""

import threading

import jax
import numpy as np
import pytest
import random_cascades as rc
from random_cascades import drawn

from cv3jax.cascade.sizes import Size
from cv3jax.serving.engine.lanes import STEP, Lane, lanes_of, places_of
from cv3jax.serving.engine.opening import EngineSettings, engine_of
from cv3jax.serving.orders import Choice, Drawn, Ended
from data_pipeline.io.errors import InputError

ONCE = rc.chain(16, 32)
STEPS = Lane(STEP, "base", ONCE[0])
LONG = Choice(60, 3.0)


class Breaking:
    """A compiled program that fails at its next call, and takes what it consumes along."""

    def __init__(self, program, consumes: bool):
        self._run, self._consumes, self.failed = program.run, consumes, False

    def __call__(self, params, changed, kept, packed):
        if self.failed:
            return self._run(params, changed, kept, packed)
        self.failed = True
        for x in jax.tree.leaves(changed) if self._consumes else ():
            x.delete()
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes.")


@pytest.mark.parametrize("consumes", [False, True])
@pytest.mark.parametrize("lane", lanes_of(places_of([ONCE])), ids=str)
def test_a_failed_unit_ends_its_rows_and_no_others(small_engine, monkeypatch, lane, consumes):
    engine = small_engine[0]
    orders = [rc.order(f"{n}", ONCE, n, base=Choice(2 + n, 3.0)) for n in range(7)]
    wanted = [heard.image for heard in drawn(engine, *orders)]
    for (each, shape), program in list(engine._programs.items()):
        if each == lane:
            broken = program._replace(run=Breaking(program, consumes))
            monkeypatch.setitem(engine._programs, (each, shape), broken)
    heard = drawn(engine, *orders)
    ended = [listener.last for listener in heard if isinstance(listener.last, Ended)]
    shapes = sum(each == lane and p.run.failed for (each, _), p in engine._programs.items())
    assert shapes <= len(ended) <= 4 * shapes
    for event in ended:
        assert not event.cancelled
        assert event.message == (
            f"the device failed in {lane}: RESOURCE_EXHAUSTED: Out of memory allocating 9 bytes."
        )
    for listener, image in zip(heard, wanted, strict=True):
        if isinstance(listener.last, Drawn):
            np.testing.assert_array_equal(listener.last.image, image)
    assert engine.gauges["alive"] == 1.0
    assert engine.gauges["rows"] == engine.gauges["rows_under_way"] == 0


def test_no_memory_for_new_pools_ends_rows_and_not_the_engine(small_engine, monkeypatch):
    engine = small_engine[0]
    order = rc.order("one", ONCE)
    wanted = drawn(engine, order)[0].image
    for (each, shape), program in list(engine._programs.items()):
        if each == STEPS:
            broken = program._replace(run=Breaking(program, consumes=True))
            monkeypatch.setitem(engine._programs, (each, shape), broken)

    def no_memory(*args):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: none left")

    with monkeypatch.context() as patch:
        patch.setattr(engine._store, "_put", no_memory)
        for _ in range(2):
            (heard,) = drawn(engine, order)
            assert heard.last.message.startswith("the device failed in")
    np.testing.assert_array_equal(drawn(engine, order)[0].image, wanted)


def test_a_listener_that_raises_is_not_the_end_of_others(small_engine, caplog):
    def bad(event):
        raise RuntimeError("of its own")

    small_engine[0].submit(rc.order("bad", ONCE), bad)
    (heard,) = drawn(small_engine[0], rc.order("good", ONCE))
    assert isinstance(heard.last, Drawn)
    assert "a listener failed" in caplog.text


@pytest.fixture(scope="module")
def base_only(small_cascade):
    """Return a function that opens an engine of base pictures, in units of one row."""

    def opened():
        engine = engine_of(
            small_cascade, EngineSettings((Size(16, 16),), batch=1), lambda line: None
        )
        engine.start()
        return engine

    return opened


def test_a_drained_engine_draws_what_it_has_and_takes_no_more(base_only):
    engine, heard = base_only(), [rc.Heard() for _ in range(3)]
    for n, listener in enumerate(heard):
        engine.submit(rc.order(f"{n}", rc.chain(16)), listener)
    assert engine.stop(60.0) == 0
    assert all(isinstance(listener.events[-1], Drawn) for listener in heard)
    with pytest.raises(InputError, match="the server is stopping and takes no more orders"):
        engine.submit(rc.order("more", rc.chain(16)), rc.Heard())
    assert engine.gauges["alive"] == 0.0


def test_an_engine_stops_in_time_and_counts_what_it_did_not_draw(base_only):
    engine, begun = base_only(), threading.Event()
    heard = [rc.Heard() for _ in range(3)]
    for n, listener in enumerate(heard):
        engine.submit(rc.order(f"{n}", rc.chain(16), base=Choice(900, 3.0)), listener)
    engine.submit(rc.order("first", rc.chain(16)), lambda event: begun.set())
    assert begun.wait(60)
    assert engine.stop(0.0) in (3, 4)
    # they are for whoever kept them to draw later: nothing says that they are over
    assert not any(isinstance(event, Ended) for one in heard for event in one.events)
