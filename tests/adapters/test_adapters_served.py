"""Test that a server draws with the adapters that each request names, and compiles nothing then."""

import adapters
import jax
import numpy as np
import pytest
import random_cascades as rc
from random_cascades import drawn
from tiny_runs import compilations

from cv3jax.adapters import trees
from cv3jax.adapters.applied import Applied
from cv3jax.cascade.memory import bytes_per_device
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.models.adapters import merged as with_adapter
from cv3jax.serving.engine import compiling
from cv3jax.serving.engine.adapters import ParamSets, of_stage
from cv3jax.serving.engine.lanes import STEP, TEXT
from cv3jax.serving.engine.offer import Offer
from cv3jax.serving.engine.opening import EngineSettings, engine_of
from cv3jax.serving.engine.queue import Queue
from cv3jax.serving.engine.rows import Row
from cv3jax.serving.orders import Ended
from data_pipeline.io.errors import InputError

KNOWN = rc.description()
FILES = {
    "plain": adapters.of_stage(KNOWN.stages["base"], every=3, size=0.3),
    "dora": adapters.of_stage(KNOWN.stages["base"], every=4, size=0.3, dora=True, seed=1),
    "relay": adapters.of_stage(KNOWN.stages["relay"], every=5, size=0.3, seed=2),
}
LORAS = {
    name: Applied(one, one.stage, 1.0, f"{name}.safetensors", name) for name, one in FILES.items()
}
SETS = [
    (),
    (("plain", 1.0),),
    (("plain", 0.5), ("relay", 2.0)),
    (("dora", 1.0),),
    (("dora", -1.0), ("plain", 0.25), ("relay", 1.0)),
]


def settings(**more) -> EngineSettings:
    return EngineSettings((Size(32, 32), Size(16, 16)), batch=4, **more)


@pytest.fixture(scope="module")
def cascade():
    return rc.cascade()


@pytest.fixture(scope="module")
def engine(cascade):
    opened = engine_of(cascade, settings(loras=LORAS, lora_sets=2), lambda line: None)
    opened.start()
    yield opened
    opened.stop(0)


def merged(cascade, loras):
    params = dict(cascade.params)
    for name, weight in loras:
        stage = LORAS[name].stage
        tree = trees.to_tree(FILES[name], KNOWN.stages[stage], bucket=4, weight=weight)
        params[stage] = jax.jit(with_adapter)(params[stage], tree)
    return params


@pytest.mark.parametrize("loras", SETS[1:], ids=str)
def test_parameters_are_the_merged_ones(cascade, loras):
    sets = ParamSets(cascade, LORAS, 1)
    sets.compile()
    for part, tree in merged(cascade, loras).items():
        for a, b in zip(jax.tree.leaves(sets.of(part, loras)), jax.tree.leaves(tree), strict=True):
            np.testing.assert_allclose(a, b, atol=1e-6)
    assert sets.of("vae", loras) is cascade.params["vae"]
    assert sets.of("base", ()) is cascade.params["base"]


def test_a_picture_with_adapters_is_that_of_the_merged_cascade(engine, cascade):
    for number, loras in enumerate(SETS):
        (heard,) = drawn(engine, rc.order(f"one {number}", rc.chain(16, 32), 5, loras=loras))
        other = cascade.with_params("base", merged(cascade, loras)["base"])
        other = other.with_params("relay", merged(cascade, loras)["relay"])
        drawing = {"base": SamplerSettings(4, 3.0, 0.0), "relay": SamplerSettings(3, 2.0, 0.0)}
        made = other.generate(["a red circle"], [5], size=32, final=True, **drawing)
        apart = np.abs(heard.image.astype(int) - made["relay"][0])
        assert apart.max() <= 1
        assert (apart > 0).mean() <= 0.03
        if loras:
            (plain,) = drawn(engine, rc.order(f"plain {number}", rc.chain(16, 32), 5))
            assert (plain.image != heard.image).mean() > 0.2


def test_requests_with_other_adapters_do_not_touch_each_other_and_compile_nothing(engine):
    chain = rc.chain(16, 32)
    orders = [
        rc.order(f"{n}", chain, n, prompt=("red star", "blue circle")[n % 2], loras=SETS[n % 5])
        for n in range(15)
    ]
    with compilations() as compiled:
        alone = [drawn(engine, order)[0].image for order in orders]
        together = [heard.image for heard in drawn(engine, *orders)]
    assert compiled == []
    for one, other in zip(alone, together, strict=True):
        assert one.tobytes() == other.tobytes()


def test_units_have_rows_of_one_set_where_the_stage_s_parameters_are_read(engine, monkeypatch):
    seen = []
    begin = type(engine)._begin

    def noted(self, unit):
        seen.append((unit.lane, [row.order.loras for row in unit.rows]))
        return begin(self, unit)

    monkeypatch.setattr(type(engine), "_begin", noted)
    orders = [rc.order(f"u{n}", rc.chain(16, 32), n, loras=SETS[n % 3]) for n in range(9)]
    drawn(engine, *orders)
    texts = [sets for lane, sets in seen if lane.kind == TEXT]
    assert all(len({*sets}) == 1 for sets in texts)
    stages = {name: one.stage for name, one in LORAS.items()}
    steps = [
        [of_stage(loras, lane.stage, stages) for loras in sets]
        for lane, sets in seen
        if lane.kind == STEP
    ]
    assert all(len({*sets}) == 1 for sets in steps)
    assert max(map(len, steps)) > 1


def test_rows_that_differ_in_the_relay_alone_share_the_base_s_steps():
    stages = {name: one.stage for name, one in LORAS.items()}
    offer = Offer(KNOWN, [rc.chain(16, 32)], stages)
    queue = Queue(offer.lanes, 4, 8, 8, stages)
    for n, deadline in enumerate((2.0, 1.0)):  # the second is more urgent, so it reads its text
        order = rc.order(f"{n}", rc.chain(16, 32), n, loras=(("relay", 0.5 * (n + 1)),))
        row = Row(order, lambda event: None, np.zeros(4, np.int32), offer.legs(order))
        row.deadline = deadline
        queue.add(row)
        unit = queue.take(lambda lane, rows: 1.0)
        assert (unit.lane.kind, len(unit.rows)) == (TEXT, 1)
        queue.moved(unit, lambda row: None)
    seen = {}
    while len(queue):
        unit = queue.take(lambda lane, rows: 1.0)
        seen.setdefault((unit.lane.kind, unit.lane.stage), []).append(len(unit.rows))

        def advance(row):
            row.done += 1
            if row.done == row.leg.units and row.at < len(row.legs) - 1:
                row.at, row.done = row.at + 1, 0

        over = {row.order.id for row in unit.rows if row.at == len(row.legs) - 1}
        queue.moved(unit, advance)
        for row in unit.rows:
            if row.order.id in over:
                queue.remove(row)
    assert {*seen[STEP, "base"]} == {2}
    assert {*seen[STEP, "relay"]} == {1}


def test_the_seconds_of_merging_are_counted_while_they_are_due(cascade):
    sets = ParamSets(cascade, LORAS, 2)
    sets.compile()
    assert sets.missing(SETS[1]) == 0  # nothing is measured yet
    sets.reserve()
    assert sets.seconds.keys() == {"base", "relay"}
    assert sets.missing(()) == 0
    whole = tuple((name, 0.75) for name in LORAS)
    assert sets.missing(whole) == pytest.approx(sum(sets.seconds.values()))
    sets.merge(("base", "vae"), whole)
    assert sets.missing(whole) == pytest.approx(sets.seconds["relay"])
    sets.merge(("relay",), whole)
    assert sets.missing(whole) == 0


def test_few_sets_are_kept_and_their_memory_is_foretold(cascade):
    sets = ParamSets(cascade, LORAS, 2)
    sets.compile()
    base = bytes_per_device(cascade.params)
    for loras in [*SETS[1:], *SETS[1:]]:
        sets.of("base", loras)
        assert len(sets._held["base"]) <= 2
    ids = {id(leaf) for leaf in jax.tree.leaves(cascade.params)}

    def held() -> int:
        leaves = jax.tree.leaves(list(sets._held.values()))
        return bytes_per_device([leaf for leaf in leaves if id(leaf) not in ids])

    assert 0 < held() <= sets.nbytes < 2 * base
    sets = ParamSets(cascade, LORAS, 2)
    sets.compile()
    sets.reserve()
    assert 3 * held() == 2 * sets.nbytes  # of a third, while it is merged
    for loras in SETS[1:]:
        sets.of("base", loras)
        assert held() <= sets.nbytes
    assert sets.facts()["ranks"] == {"base": 4, "relay": 4}


def test_an_adapter_that_is_not_there_is_refused(engine, cascade):
    order = rc.order("no", rc.chain(16), loras=(("nope", 1.0),))
    with pytest.raises(InputError, match="adapter 'nope': this server has none"):
        engine.submit(order, lambda event: None)
    order = rc.order("no relay", rc.chain(16), loras=(("relay", 1.0),))
    with pytest.raises(InputError, match="adapter 'relay': this server has none for such"):
        engine.submit(order, lambda event: None)
    assert engine.capabilities["loras"]["sets"] == 2


def test_too_little_memory_for_the_sets_is_said_at_the_start(cascade, monkeypatch):
    free = 2 * bytes_per_device(cascade.params)
    monkeypatch.setattr(compiling, "room", lambda mesh: free)
    with pytest.raises(InputError, match=r"1000 sets of adapters, .* GB, need .* free"):
        engine_of(cascade, settings(loras=LORAS, lora_sets=1000), lambda line: None)


def test_a_failing_merge_fails_its_own_orders_alone(engine, monkeypatch):
    def fails(self, stage, loras):
        raise RuntimeError("RESOURCE_EXHAUSTED: of the test")

    monkeypatch.setattr(ParamSets, "_merged", fails)
    odd = (("plain", 0.123),)
    with_it, without = drawn(
        engine, rc.order("f", rc.chain(16), 1, loras=odd), rc.order("g", rc.chain(16), 1)
    )
    assert isinstance(with_it.last, Ended)
    assert "RESOURCE_EXHAUSTED" in with_it.last.message
    assert without.image.shape == (16, 16, 3)
