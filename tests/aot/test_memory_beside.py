"""Test the memory that `cv3jax compile` adds to a program's own.

It adds what a run holds in addition to the program, and compares the sum with the device's memory.
"""

import dataclasses

import jax
import pytest
from compile_figures import fake_figures

from cv3jax import recipes
from cv3jax.aot import programs
from cv3jax.aot.report import text
from cv3jax.aot.run import room
from cv3jax.cli import run_command
from cv3jax.distillation.parsing import parse_recipe
from cv3jax.distributed import backend
from cv3jax.distributed.chips import CHIPS
from cv3jax.training.memory_plan import held, plan_line

NAMES = (backend.POOL, backend.OLD_POOL)


@pytest.fixture(autouse=True)
def _unset(monkeypatch):
    for name in NAMES:
        monkeypatch.setenv(name, "")  # so that what a test sets goes with it


def made(recipe: str, step: str, *fields: str):
    config = recipes.load(recipe, [f"--config.{field}" for field in fields])
    return programs.program(parse_recipe(config), jax.devices()[:1], step)


@pytest.mark.parametrize("recipe", ["scenes_base:tiny", "scenes_distill_base:tiny"])
def test_each_of_a_runs_programs_has_the_others_arrays_beside_it(recipe):
    train, encode = made(recipe, "train"), made(recipe, "encode")
    state, aside, _ = train.args
    encoders, batch, *_ = encode.args
    assert held(dict(train.beside)) == held(encoders) + held(batch)
    assert held(dict(encode.beside)) == held(state) + held(aside) + held(batch)


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("bfloat16", 2)])
def test_a_sampler_has_the_encoders_beside_it_in_the_type_they_compute_in(dtype, size, monkeypatch):
    text = dataclasses.replace(programs.RELEASED.t5, model={"dtype": dtype})
    released = dataclasses.replace(programs.RELEASED, t5=text)
    monkeypatch.setattr(programs, "RELEASED", released)
    beside = made("base_512", "sample").beside
    assert set(beside) == {"vae", "t5"}
    assert size * 4.7e9 < held(beside["t5"]) < size * 4.8e9  # T5-XXL's parameters


def test_a_relays_sampler_has_the_base_beside_it():
    assert set(made("scenes_relay", "sample", "cascade=scenes").beside) == {"vae", "t5", "base"}


def test_the_autoencoders_run_has_its_next_batch_beside_it():
    work = made("scenes_vae:tiny", "train")
    assert held(dict(work.beside)) == held(work.args[2]) > 0


@pytest.mark.parametrize(
    ("chip", "peak", "beside", "pool", "fits"),
    [
        ("h100", 69.9, 10.0, "", False),  # both fit alone
        ("h100", 69.9, 2.0, "", True),
        ("h100", 69.9, 2.0, "0.75", False),  # of JAX's own pool
        ("h100", 69.9, 10.0, "1", True),
        ("a100", 60.0, 12.1, "", False),
        ("v5e", 15.0, 0.9, "", True),  # of a TPU it has all
        ("v5e", 15.0, 1.1, "", False),
    ],
)
def test_what_fits_is_the_sum_in_what_jax_can_use(chip, peak, beside, pool, fits, monkeypatch):
    monkeypatch.setenv(backend.POOL, pool)
    said = room(CHIPS[chip], int(peak * 1e9), int(beside * 1e9))
    assert said["fits"] is fits
    assert said["total_bytes_per_chip"] == pytest.approx((peak + beside) * 1e9, abs=2)


def test_the_report_adds_up():
    line = "+ 1.00 GB held beside it = 13.00 GB of"
    assert f"12.00 GB {line} 16.00 GB: fits" in text({"config": "a", **fake_figures()})
    gpu = fake_figures(capacity_bytes=20 * 10**9, usable_bytes=12 * 10**9, fits=False)
    assert f"{line} 12.00 GB (60% of 20.00 GB, which JAX takes): DOES NOT FIT" in text(
        {"config": "a", **gpu}
    )
    out = fake_figures(output_bytes_per_chip=None, fits=False)
    assert f"needs 12.00 GB (3.00 GB of it arguments) {line}" in text({"config": "a", **out})
    named = fake_figures(beside={"t5": 9 * 10**8, "next batch": 10**8})
    line = "+ 1.00 GB held beside it (t5 0.90 GB, next batch 0.10 GB) = 13.00 GB of"
    assert line in text({"config": "a", **named})


@pytest.mark.parametrize(
    ("recipe", "step", "names"),
    [
        ("scenes_base:tiny", "train", {"vae", "t5", "next batch"}),
        ("scenes_base:tiny", "encode", {"train state", "batch"}),
        ("scenes_distill_base:tiny", "encode", {"train state", "teacher", "batch"}),
        ("lora_base:tiny", "encode", {"train state", "base", "batch"}),
        ("lora_base:tiny", "train", {"vae", "t5", "next batch"}),
    ],
)
def test_what_is_beside_a_program_has_a_name(recipe, step, names):
    beside = made(recipe, step).beside
    assert names <= set(beside)
    assert all(held(beside[name]) > 0 for name in names)


class Card:
    """A device of which JAX takes so many bytes, or does not say."""

    def __init__(self, limit):
        self.memory_stats = lambda: limit and {"bytes_limit": limit}


def test_a_small_plan_has_megabytes():
    plan = {"parameters": 20_000, "t5": 3 * 10**6}
    said = "memory per device, MB: parameters 0.02, t5 3.00; 3.02 in all"
    assert plan_line(plan, Card(None)) == said
    assert plan_line(plan, Card(5 * 10**6)) == f"{said} of 5.00 that JAX takes"


def test_a_runs_plan_names_the_encoders_and_says_what_is_too_much():
    plan = {"parameters": 10**9, "t5": 9 * 10**9, "base": 0, "activations": 2 * 10**9}
    said = "memory per device, GB: parameters 1.00, t5 9.00, activations 2.00; 12.00 in all"
    assert plan_line(plan, Card(None)) == said
    assert plan_line(plan, Card(21_600_000_000)) == f"{said} of 21.60 that JAX takes"
    tight = plan_line(plan, Card(11 * 10**9))
    assert tight == (
        f"{said} of 11.00 that JAX takes; that is too little: lower config.batch.per_device"
    )


@pytest.mark.parametrize(
    ("given", "new", "old"),
    [({}, "0.9", ""), ({NAMES[0]: "0.5"}, "0.5", ""), ({NAMES[1]: "0.6"}, "", "0.6")],
)
def test_every_command_takes_that_part_of_a_gpu(given, new, old, monkeypatch):
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    seen = []
    run_command(lambda _: seen.append([backend.os.environ[name] for name in NAMES]))
    assert seen == [[new, old]]
    assert backend.pool_fraction() == float(new or old)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["all", "0", "1.5", "-1", "nan"])
def test_a_part_that_cannot_be_is_refused(name, value, monkeypatch, capsys):
    monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        run_command(lambda _: None)
    assert ended.value.code == 2
    assert f"{name}={value}: must be above 0" in capsys.readouterr().err
