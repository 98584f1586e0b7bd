"""Test the benchmarks of serving: static batches, bars, and that the soak's checks see faults."""

import asyncio
import contextlib
import importlib
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest

from cv3jax.serving.http import parameters
from cv3jax.serving.http.journal import CANCELLED, DONE, Journal, PictureRow, Row
from cv3jax.serving.http.plan import plan_generation
from cv3jax.serving.http.store import JOURNAL, Store
from cv3jax.serving.load.arrivals import Arrival, Kind
from cv3jax.serving.load.client import open_loop

ROOT = Path(__file__).parents[2]


@pytest.fixture
def script(monkeypatch):
    """Return a function that imports a script of benchmarks/."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def load(*kinds: str) -> list[Arrival]:
    """Return requests at 0 s whose steps are named, such as "4+1"."""
    bodies = [{"prompt": "a", "steps": [int(n) for n in kind.split("+")]} for kind in kinds]
    return [
        Arrival(0.0, Kind(kind), {**body, "seed": i})
        for i, (kind, body) in enumerate(zip(kinds, bodies, strict=True))
    ]


def static(script, monkeypatch, asked: list[Arrival], batch: int, delay: float) -> tuple:
    """Return (the seeds and steps of each batch that was drawn, the outcomes)."""
    module, drawn, first = script("static_batching"), [], threading.Event()

    def drawing(cascade, jobs, rows, steps=None):
        assert rows == batch
        if not drawn:  # until all have come
            first.wait(30)
        drawn.append(([job.seed for job in jobs], steps))
        if any(job.seed == 99 for job in jobs):
            raise ValueError("no")
        return np.zeros((len(jobs), 1, 1, 3), np.uint8)

    async def run():
        async def draw(body):
            asyncio.get_running_loop().call_later(0.2, first.set)
            return await batches.draw(body)

        return await asyncio.wait_for(open_loop(draw, asked), 30)

    monkeypatch.setattr(module, "drawing", drawing)
    with contextlib.closing(module.StaticBatches(None, batch, delay)) as batches:
        outcomes = asyncio.run(run())
    return drawn, outcomes


def test_a_static_batch_has_the_steps_of_its_oldest_request(script, monkeypatch):
    asked = load("4+1", "4+1", "20+10", "4+1", "20+10")
    drawn, outcomes = static(script, monkeypatch, asked, 2, 0.01)
    assert drawn == [([0, 1], (4, 1)), ([2, 4], (20, 10)), ([3], (4, 1))]
    assert [one.error for one in outcomes] == [None] * 5


def test_a_static_batch_that_is_not_full_waits_for_the_delay(script, monkeypatch):
    drawn, outcomes = static(script, monkeypatch, load("4+1", "4+1"), 3, 0.3)
    assert drawn == [([0, 1], (4, 1))]
    assert all(one.latency >= 0.3 for one in outcomes)


def test_a_static_batch_that_fails_says_so(script, monkeypatch):
    asked = [one._replace(body={**one.body, "seed": 99}) for one in load("4+1")]
    _, outcomes = static(script, monkeypatch, asked, 1, 0.0)
    assert [one.error for one in outcomes] == ["ValueError: no"]


def found(over_sample=0.95, over_single=2.0, lone=1.5, alone=1.2) -> dict:
    return {
        "saturation": {"over_sample": [over_sample] * 3, "over_single": [over_single] * 3},
        "half": {"over_lone": {"continuous": lone}},
        "mixed": {"over_alone": {"continuous": alone}},
    }


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, None),
        ({"over_sample": 0.89}, "saturation: 0.89 of the pictures a second of sample --prompts"),
        ({"over_single": 1.4}, "saturation: 1.40 of the pictures a second of one request"),
        ({"lone": 2.1}, "half load: P95 is 2.10 of a lone request's latency"),
        ({"alone": 1.6}, "mixed steps: P95 of short ones is 1.60 of alone"),
    ],
)
def test_missed_bars_of_serving(script, figures, said):
    lines = script("serve").missed(found(**figures))
    assert len(lines) == (said is not None)
    assert all(line.startswith(said) for line in lines)


@pytest.fixture
def workdir(tmp_path):
    """Return the directory of a server that drew a job of two pictures and cancelled one."""
    from http_server import model
    from square_engine import CHAINS

    values = parameters.read({"prompt": "a star", "n": 2, "seed": 1}, parameters.GENERATION)
    plan, store = plan_generation(values, model(), CHAINS), Store(tmp_path)
    kept = Journal(tmp_path / JOURNAL)
    for job in ("job_a", "job_b"):
        kept.add(Row(job, "", None, "", plan, 0.0))
    for number in range(2):
        data = png()
        name = store.write(data, "png")
        kept.add_picture("job_a", PictureRow(number, name, len(data), {}))
    kept.end("job_a", DONE, 1.0)
    kept.end("job_b", CANCELLED, 1.0)
    kept.close()
    return tmp_path


def png() -> bytes:
    from http_server import png as drawn

    return drawn(4, 4)


def test_the_soak_s_checks_pass_what_is_right(script, workdir):
    counts, wrong = script("soak_checks").jobs(workdir, {"job_a", "job_b"}, {"job_b"})
    assert wrong == []
    assert counts == {"jobs": {"cancelled": 1, "done": 1}, "pictures": 2, "files": 2}


def test_the_soak_s_checks_see_lost_jobs_and_files(script, workdir):
    jobs, pictures = script("soak_checks").jobs, workdir / "pictures"
    assert jobs(workdir, {"job_c"}, {"job_b"})[1] == [
        "job_c was accepted and is not in the journal"
    ]
    assert jobs(workdir, set(), set())[1] == ["job_b is cancelled: "]  # nobody asked for it
    (pictures / "x.png").write_bytes(b"x")
    (workdir / "given" / "job_a").write_bytes(b"x")
    assert jobs(workdir, set(), {"job_b"})[1] == [
        "a file of no picture: x.png",
        "a picture given: job_a",
    ]
    for path in itertools.chain(pictures.iterdir(), (workdir / "given").iterdir()):
        path.unlink()
    lost = jobs(workdir, set(), {"job_b"})[1]
    assert len(lost) == 2
    assert all("is missing" in line for line in lost)


def test_a_soak_in_which_nothing_was_drawn_is_wrong(script, tmp_path):
    Store(tmp_path)
    Journal(tmp_path / JOURNAL).close()
    assert script("soak_checks").jobs(tmp_path, set(), set())[1] == [
        "only 0 of 0 jobs were drawn to their end"
    ]


def test_the_soak_s_checks_see_what_is_drawn_twice(script, tmp_path):
    checks, log = script("soak_checks"), tmp_path / "log"
    killed = checks.Life(1, True, -9, frozenset(), [])
    last = checks.Life(2, False, 0, frozenset({"a.0"}), [])
    # b.0 was drawn, killed before it was kept, and drawn again
    log.write_text("1 a.0\n1 b.0\n2 b.0\n2 c.0\n")
    counts, wrong = checks.drawn(log, [killed, last], frozenset({"a.0", "b.0", "c.0"}))
    assert (counts["drawn"], counts["drawn_again_after_kill"], wrong) == (4, 1, [])
    for more, said in (
        ("2 c.0\n", "process 2 drew c.0 2 times"),
        ("2 a.0\n", "a.0 was in the journal and was drawn again"),
    ):
        log.write_text("1 a.0\n1 b.0\n2 b.0\n2 c.0\n" + more)
        assert said in checks.drawn(log, [killed, last], frozenset())[1]
    log.write_text("1 a.0\n2 a.0\n")
    lives = [killed._replace(killed=False), last._replace(kept=frozenset())]
    assert checks.drawn(log, lives, frozenset({"z.0"}))[1] == [
        "a.0 was drawn again after a process that was not killed",
        "z.0 is in the journal and was not drawn",
    ]


def test_the_soak_s_checks_see_growth_and_bad_ends(script):
    checks = script("soak_checks")
    level = [(n, 100) for n in range(40)]
    assert checks.memory(level)[1] == []
    # the first quarter is the warm-up
    assert checks.memory([(n, 50 if n < 10 else 100) for n in range(40)])[1] == []
    grown, wrong = checks.memory([(n, 100 + n) for n in range(40)])
    assert wrong
    assert grown["bytes_per_request"] == pytest.approx(1.0)
    lives = [
        checks.Life(1, True, -9, frozenset(), []),
        checks.Life(2, False, 1, frozenset(), ["Traceback (most recent call last):"]),
    ]
    assert checks.ends(lives) == [
        "a process that was asked to stop exited with 1",
        "a process said 'Traceback (most recent call last):'",
    ]
