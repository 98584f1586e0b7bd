"""Test the load of `cv3jax bench-serve`: arrivals, mixtures, percentiles, and the open loop."""

import asyncio
import itertools
import math

import numpy as np
import pytest

from cv3jax.cascade.sizes import Size
from cv3jax.serving.load import report as load_report
from cv3jax.serving.load.arrivals import (
    Arrival,
    Kind,
    Outcome,
    arrivals,
    latencies,
    parse_mix,
    percentile,
    prompts,
    steady,
    summary,
)
from cv3jax.serving.load.client import closed_loop, open_loop
from cv3jax.serving.load.scrape import between, engine_samples
from data_pipeline.io.errors import InputError

MIX = [Kind("short", 3.0, (4, 1)), Kind("long", 1.0, (20, 10), Size(128, 64))]


def test_arrivals_are_a_poisson_process_that_a_seed_repeats():
    made = arrivals(MIX, 4.0, 4000, seed=1)
    assert made == arrivals(MIX, 4.0, 4000, seed=1)
    assert made[:9] != arrivals(MIX, 4.0, 4000, seed=2)[:9]
    gaps = np.diff([0.0, *(one.at for one in made)])
    assert gaps.min() > 0
    # an exponential distribution: mean and standard deviation are 1/rate, e⁻¹ lie above the mean
    assert gaps.mean() == pytest.approx(0.25, rel=0.05)
    assert gaps.std() == pytest.approx(0.25, rel=0.1)
    assert (gaps > 0.25).mean() == pytest.approx(math.exp(-1), abs=0.03)
    # no gap says anything of the next one
    assert abs(np.corrcoef(gaps[1:], gaps[:-1])[0, 1]) < 0.05


def test_another_rate_has_the_same_requests_at_other_times():
    slow, fast = (arrivals(MIX, rate, 50, seed=3) for rate in (1.0, 2.0))
    assert [one.body for one in slow] == [one.body for one in fast]
    assert [one.at for one in slow] == pytest.approx([2 * one.at for one in fast])
    assert {one.at for one in arrivals(MIX, None, 50)} == {0.0}


def test_a_mixture_has_its_shares_and_bodies():
    made = arrivals(MIX, 1.0, 4000)
    long = [one for one in made if one.kind.name == "long"]
    assert len(long) / len(made) == pytest.approx(0.25, abs=0.03)
    # OpenAI's API writes the width first
    assert {key: long[0].body[key] for key in ("steps", "size")} == {
        "steps": [20, 10],
        "size": "64x128",
    }
    assert "size" not in next(one.body for one in made if one.kind.name == "short")
    assert len({one.body["seed"] for one in made}) == len(made)
    assert len({*itertools.islice(prompts(), 1000)}) == 1000


def test_a_mix_is_parsed():
    assert parse_mix("4+1:3, 20+10@128x64:1,default:.5,8@64:1") == [
        Kind("4+1", 3.0, (4, 1)),
        Kind("20+10@128x64", 1.0, (20, 10), Size(128, 64)),
        Kind("default", 0.5),
        Kind("8@64", 1.0, (8,), Size(64, 64)),
    ]
    assert parse_mix("8:1")[0].body("a", 1)["steps"] == 8


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("4+1", "give KIND:SHARE"),
        ("4+x:1", "give KIND:SHARE"),
        ("", "give KIND:SHARE"),
        ("4+1:0", "share has to be above 0"),
        ("4+1:inf", "share has to be above 0"),
        ("4+1+1:1", "one or two numbers of steps"),
        ("0+1:1", "one or two numbers of steps"),
        ("4+1@x:1", "--mix x"),
        ("4+1:1,4+1:2", "a kind is named twice"),
    ],
)
def test_a_wrong_mix_is_refused(text, said):
    with pytest.raises(InputError, match=said.replace("+", r"\+")):
        parse_mix(text)


def test_percentiles_are_values_that_were_measured():
    values = [float(n) for n in range(100, 0, -1)]
    assert [percentile(values, p) for p in (50, 95, 99, 100)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([3.0], 99) == 3.0
    assert percentile([1.0, 2.0, 9.0], 95) == 9.0


def outcome(kind: str, due: float, sent: float, over: float, error: str | None = None) -> Outcome:
    return Outcome(kind, due, sent, over, error)


def test_a_latency_begins_when_a_request_was_due_and_errors_have_none():
    found = [
        outcome("a", 1.0, 1.5, 3.0),
        outcome("b", 0.0, 0.0, 1.0),
        outcome("b", 0.0, 0.0, 0.1, "429 server_busy"),
        outcome("b", 0.0, 0.0, 0.1, "ReadError"),
    ]
    figures = summary(found, None)
    assert figures["latency"]["a"]["p50"] == 2.0
    assert [figures["latency"][kind]["count"] for kind in ("a", "b", "all")] == [1, 1, 2]
    assert (figures["answered"], figures["refused"]) == (2, 1)
    assert figures["errors"] == {"429 server_busy": 1, "ReadError": 1}
    assert figures["late_seconds"] == 0.5
    assert figures["pictures_per_second"] == pytest.approx(2 / 3)
    assert list(latencies(found[:1])) == ["a"]  # one kind alone is all


def test_saturation_counts_only_while_all_clients_had_a_request():
    """Two clients; each request takes a second, and the last answers come when nobody is left."""
    found = [outcome("a", n // 2, n // 2, n // 2 + 1.0) for n in range(8)]
    assert steady(found, 2) == (4, 2.0)
    assert summary(found, 2)["pictures_per_second"] == 2.0
    slow = [*found, outcome("b", 1.0, 1.0, 8.0)]
    assert summary(slow, 2)["pictures_per_second"] == 2.0
    assert summary(slow, 2)["whole_per_second"] == 9 / 8
    with pytest.raises(InputError, match="too few to measure"):
        steady(found[:2], 2)


def load(*times: float) -> list[Arrival]:
    return [Arrival(at, Kind("a"), {"number": n}) for n, at in enumerate(times)]


def test_in_an_open_loop_a_slow_answer_does_not_delay_the_next_request():
    """The first request is answered only after the last one has been sent."""
    sent, all_sent = [], asyncio.Event()

    async def draw(body):
        sent.append(body["number"])
        if len(sent) == 3:
            all_sent.set()
        if body["number"] == 0:
            await all_sent.wait()
        return None

    found = asyncio.run(asyncio.wait_for(open_loop(draw, load(0.0, 0.05, 0.1)), 30))
    assert sent == [0, 1, 2]
    assert [one.due for one in found] == [0.0, 0.05, 0.1]
    assert all(one.sent >= one.due for one in found)
    assert found[0].over >= found[2].sent


def test_a_closed_loop_has_so_many_requests_under_way_and_no_more():
    now, most, steps = 0, 0, []

    async def draw(body):
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.001)
        now -= 1
        return "500 x" if body["number"] == 4 else None

    found = asyncio.run(closed_loop(draw, load(*[0.0] * 10), 3, lambda: steps.append(1)))
    assert (len(found), len(steps), most) == (10, 10, 3)
    assert [one.error for one in found].count("500 x") == 1
    assert all(one.latency > 0 and one.due == pytest.approx(one.sent, abs=0.05) for one in found)


METRICS = """# HELP cv3jax_engine_units_total Units of the engine.
# TYPE cv3jax_engine_units_total counter
cv3jax_engine_units_total{{lane="base step 64×64"}} {units}
# TYPE cv3jax_engine_unit_rows_total counter
cv3jax_engine_unit_rows_total{{lane="base step 64×64"}} {rows}
# TYPE cv3jax_engine_unit_places_total counter
cv3jax_engine_unit_places_total{{lane="base step 64×64"}} {places}
# TYPE cv3jax_engine_unit_seconds_total counter
cv3jax_engine_unit_seconds_total{{lane="base step 64×64"}} {seconds}
# TYPE cv3jax_pictures_total counter
cv3jax_pictures_total{{kind="drawn"}} 7
"""


def test_what_the_engine_did_is_the_difference_of_two_readings():
    before, after = (
        engine_samples(METRICS.format(units=u, rows=r, places=p, seconds=s))
        for u, r, p, s in ((2, 8, 16, 1.0), (6, 32, 48, 3.0))
    )
    found = between(before, after)
    assert found["occupancy"] == 24 / 32
    assert found["lanes"] == {
        "base step 64×64": {
            "units": 4,
            "rows": 24,
            "rows_per_unit": 6.0,
            "occupancy": 0.75,
            "seconds": 2.0,
            "places": 32,
        }
    }
    shown = load_report.lane_table(found["lanes"])
    assert "| 4     | 6.00        | 75 %      | 500.0     | 2.00    |" in shown
    assert between(after, after) == {"occupancy": None, "lanes": {}}
