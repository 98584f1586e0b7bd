"""Test that the engine draws each order as it would be drawn alone, whatever shares its units."""

import math
import threading

import numpy as np
import pytest
import random_cascades as rc
from random_cascades import drawn
from tiny_runs import compilations

from cv3jax.cascade import preview
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.serving.orders import Choice, Drawn, Ended, Stepped
from data_pipeline.io.errors import InputError

ONCE, TWICE, BASE = (
    rc.chain(16, 32),
    rc.chain(16, 32, 64),
    rc.chain(16),
)


def of(choice: Choice) -> SamplerSettings:
    return SamplerSettings(choice.steps, choice.guidance, choice.eta, strength=choice.strength)


def generated(cascade, order) -> np.ndarray:
    made = cascade.generate(
        [order.prompt],
        [order.seed],
        size=order.sizes[-1],
        base=of(order.base),
        relay=of(order.relay),
        images=None if order.image is None else order.image[None],
        final=True,
    )
    return made.get("relay", made["base"])[0]


def nearly_equal(a, b) -> bool:
    """Return whether pictures differ by at most 1 of 255, and that in few pixels."""
    apart = np.abs(a.astype(int) - b.astype(int))
    return apart.max() <= 1 and (apart > 0).mean() <= 0.03


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"sizes": TWICE, "seed": 2**32 - 1},
        {"sizes": BASE},
        {"base": Choice(3, 1.0, 1.0), "relay": Choice(2, 5.0, 0.5, 0.5)},
        {"image": np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3), "sizes": TWICE},
    ],
    ids=["one pass", "two passes", "no relay", "noise and strength", "an image"],
)
def test_a_picture_is_that_of_generate(small_engine, small_cascade, more):
    order = rc.order("one", **{"sizes": ONCE, "seed": 5, **more})
    (heard,) = drawn(small_engine[0], order)
    assert nearly_equal(heard.image, generated(small_cascade, order))


def test_no_picture_depends_on_what_shares_its_units(small_engine):
    engine, draws = small_engine[0], np.random.default_rng(0)
    orders = [rc.mixture(draws, engine.sizes, f"{n}") for n in range(24)]
    alone = [drawn(engine, order)[0] for order in orders]
    together = drawn(engine, *orders)
    for order, one, other in zip(orders, alone, together, strict=True):
        assert one.steps() == other.steps()
        for a, b in zip(one.pictures(), other.pictures(), strict=True):
            np.testing.assert_array_equal(a, b, err_msg=f"{order}")
    assert len({one.image.tobytes() for one in alone}) == len(orders)


def test_cancelled_orders_leave_the_others_as_they_are(small_engine):
    engine, draws = small_engine[0], np.random.default_rng(1)
    orders = [rc.mixture(draws, engine.sizes, f"{n}") for n in range(12)]
    alone = [drawn(engine, order)[0] for order in orders]
    heard = [rc.Heard() for _ in orders]
    ended = threading.Event()

    def cancels_another(event):
        if not ended.is_set():
            ended.set()
            for n in range(0, 12, 3):
                engine.cancel(f"{n}")

    for order, listener in zip(orders, heard, strict=True):
        engine.submit(order, listener)
    engine.submit(rc.order("trigger", BASE), cancels_another)
    for n, (one, listener) in enumerate(zip(alone, heard, strict=True)):
        if isinstance(listener.last, Ended):
            assert n % 3 == 0
            assert listener.last.cancelled
        else:
            np.testing.assert_array_equal(one.image, listener.image)
    assert any(isinstance(listener.last, Ended) for listener in heard)


def test_events_come_in_order_with_previews_and_the_pictures_of_each_stage(small_engine):
    (heard,) = drawn(small_engine[0], rc.order("one", TWICE, previews=True))
    base = [("base", 0, n, 4) for n in range(1, 5)]
    relays = [("relay", number, n, 3) for number in (1, 2) for n in range(1, 4)]
    assert heard.steps() == base + relays
    shapes = [event.preview.shape for event in heard.of(Stepped)]
    assert shapes == [(4, 4, 3)] * 4 + [(8, 8, 3)] * 3 + [(16, 16, 3)] * 3
    pictures = [(e.stage, e.relay_pass, e.image.shape[0], e.last) for e in heard.of(Drawn)]
    assert pictures == [("base", 0, 16, False), ("relay", 1, 32, False), ("relay", 2, 64, True)]


def test_a_preview_shows_what_each_step_predicts(small_engine, small_cascade):
    order, shown = rc.order("one", ONCE, previews=True), []

    def watch(stage, done, count, x0):
        shown.append(preview.shown(x0(), np.asarray(rc.MATRIX, np.float32))[0])

    generated(small_cascade.watched_by(watch), order)
    (heard,) = drawn(small_engine[0], order)
    found = [event.preview for event in heard.of(Stepped)]
    assert len(found) == len(shown) == 7
    assert all(nearly_equal(a, b) for a, b in zip(found, shown, strict=True))
    assert len({one.tobytes() for one in found}) == 7


def test_an_order_without_previews_has_none(small_engine):
    one, other = drawn(small_engine[0], rc.order("one", BASE), rc.order("two", BASE, previews=True))
    assert {event.preview is None for event in one.of(Stepped)} == {True}
    assert {event.preview is None for event in other.of(Stepped)} == {False}


def test_nothing_compiles_after_the_start(small_engine):
    engine, draws = small_engine[0], np.random.default_rng(2)
    with compilations() as compiled:
        drawn(engine, *(rc.mixture(draws, engine.sizes, f"{n}") for n in range(16)))
        other = {"base": Choice(37, 3.0), "relay": Choice(43, 3.0)}  # numbers that none had
        assert engine.seconds([rc.order("more", TWICE, **other)]) > 0
    assert compiled == []


def test_a_cancelled_order_takes_no_further_step(small_engine):
    engine, heard = small_engine[0], rc.Heard()

    def cancel_at_the_second_step(event):
        heard(event)
        if len(heard.events) == 2:
            assert engine.cancel("one")
            assert not engine.cancel("one")  # it is over for whoever asks again

    engine.submit(rc.order("one", TWICE, base=Choice(60, 3.0)), cancel_at_the_second_step)
    assert heard.last == Ended(cancelled=True)
    # the step that ran while its listener was told may have ended, and no other
    assert len(heard.steps()) == 2
    assert not engine.cancel("one")


def test_an_id_can_be_used_again_when_its_order_is_over(small_engine):
    engine, heard = small_engine[0], rc.Heard()
    long = rc.order("same", BASE, base=Choice(80, 3.0))
    engine.submit(long, heard)
    with pytest.raises(InputError, match="order same: there is one of this id already"):
        engine.submit(long, rc.Heard())
    engine.cancel("same")
    heard.wait()
    drawn(engine, rc.order("same", BASE))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"sizes": rc.chain(20, 40)}, "sizes 20×20 → 40×40: this server draws 16×16 → 32×32, or"),
        ({"base": Choice(0, 3.0)}, "0 steps for the base stage"),
        ({"base": Choice(2000, 3.0)}, "2,000 steps for the base stage"),
        ({"base": Choice(10**9, 3.0)}, "1,000,000,000 steps for the base stage"),
        ({"base": Choice(4, math.nan)}, "guidance nan for the base stage: give a number"),
        ({"relay": Choice(3, math.inf)}, "guidance inf for the relay stage: give a number"),
        ({"seed": 2**32}, "seed 4294967296: give a whole number in 0..4294967295"),
        ({"seed": -1}, "seed -1: give a whole number in 0..4294967295"),
        ({"relay": Choice(3, 3.0, 1.5)}, "eta 1.5 for the relay stage: give a value from 0 to 1"),
        ({"relay": Choice(3, 3.0, 0.0, 2.0)}, "strength 2.0: give a value above 0 and at most 1"),
        ({"image": np.zeros((8, 8, 3), np.uint8)}, r"uint8 \[8, 8, 3\]: give uint8 \[16, 16, 3\]"),
        ({"image": np.zeros((16, 16, 3), np.uint8), "sizes": BASE}, "give the size that it shall"),
    ],
)
def test_an_order_that_cannot_be_drawn_is_refused(small_engine, more, message):
    with pytest.raises(InputError, match=message):
        small_engine[0].submit(rc.order("bad", **{"sizes": ONCE, **more}), rc.Heard())
    with pytest.raises(InputError, match=message):
        small_engine[0].seconds([rc.order("bad", **{"sizes": ONCE, **more})])
