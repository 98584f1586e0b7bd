"""Test that a run of many processes behaves as one.

It has the same numbers as one process. All end if one dies, all stop after the same step, and any
number of processes resumes.
"""

import re
import shutil
import signal

import jax
import many_runs
import numpy as np
import pytest
import tiny_runs
from states import assert_equal, leaves, named_leaves

from cv3jax.cascade.pipeline import load
from cv3jax.checkpoints import manifest, runs
from cv3jax.distributed import processes
from cv3jax.distributed.mesh import make_mesh
from cv3jax.training import run as training
from cv3jax.training.metrics import read_lines
from data_pipeline.io.arguments import Parser
from data_pipeline.io.bounded_json import load_json
from data_pipeline.io.errors import InputError

STEPS = 20
VARIABLES = {
    "coordinator": "JAX_COORDINATOR_ADDRESS",
    "num_processes": "JAX_NUM_PROCESSES",
    "process_id": "JAX_PROCESS_ID",
}


def place(flags: dict, environment: dict | None = None):
    parser = Parser()
    processes.add_flags(parser)
    return processes.place(
        parser.parse_args([f"--{name}={value}" for name, value in flags.items()]), environment or {}
    )


def test_a_process_knows_its_place_from_flags_and_variables():
    flags = {"coordinator": "10.0.0.1:8476", "num_processes": "4", "process_id": "3"}
    variables = {VARIABLES[name]: value for name, value in flags.items()}
    for given in (
        (flags, {}),
        ({}, variables),
        ({"process_id": 3}, {**variables, "JAX_PROCESS_ID": "2"}),
    ):
        assert place(*given) == ("10.0.0.1:8476", 4, 3)
    assert place({}) is None
    assert place({**flags, "num_processes": 1, "process_id": 0}) is None
    assert place({"num_processes": 1, "process_id": 0}) is None
    assert place({**flags, "coordinator": "[fe80::1]:8476"}).coordinator == "[fe80::1]:8476"


@pytest.mark.parametrize(
    ("flags", "environment", "words"),
    [
        (
            {"num_processes": 4},
            {},
            (
                "--coordinator and --process-id must be given together with --num-processes; give"
                " --coordinator HOST:PORT"
            ),
        ),
        (
            {"process_id": 0},
            {"JAX_NUM_PROCESSES": "2"},
            "--coordinator must be given together with JAX_NUM_PROCESSES and --process-id",
        ),
        (
            {"coordinator": "a:1", "num_processes": 4, "process_id": 4},
            {},
            "--process-id = 4: must be 0..3, because --num-processes is 4",
        ),
        (
            {"coordinator": "a:1", "num_processes": 0, "process_id": 0},
            {},
            "--num-processes = 0: must be at least 1",
        ),
        (
            {"coordinator": "a", "num_processes": 2, "process_id": 0},
            {},
            "--coordinator = a: must be HOST:PORT",
        ),
        (
            {"coordinator": "a:1", "num_processes": 2},
            {"JAX_PROCESS_ID": "first"},
            "JAX_PROCESS_ID = first: must be a whole number",
        ),
    ],
)
def test_a_place_that_cannot_be_is_refused(flags, environment, words):
    with pytest.raises(InputError, match=re.escape(words)):
        place(flags, environment)


def mesh(count: int):
    return make_mesh(data=max(count // 4, 1), fsdp=min(count, 4), devices=jax.devices()[:count])


def losses(workdir) -> list[float]:
    return [line["loss"] for line in read_lines(workdir / "metrics.jsonl")]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the run of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("alone")
    return workdir, named_leaves(many_runs.run(workdir, STEPS, mesh(8)))


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """Return the run of two processes with four devices each."""
    workdir = tmp_path_factory.mktemp("two")
    ended = many_runs.start(workdir, STEPS)
    assert [code for code, _ in ended] == [0, 0], ended
    return workdir


def test_one_device_and_eight_and_two_processes_train_the_same(alone, two, tmp_path):
    one = named_leaves(many_runs.run(tmp_path, STEPS, mesh(1), accumulate=1))
    for theirs, curve in ((one, losses(tmp_path)), (leaves(two, STEPS), losses(two))):
        np.testing.assert_allclose(curve, losses(alone[0]), rtol=1e-5)
        for name, value in alone[1].items():
            if not name.startswith("opt_state"):
                np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=1e-5, err_msg=name)
    assert losses(two)[-1] < 0.7 * losses(two)[0]


def test_each_process_hashes_what_it_wrote_and_nothing_else(two):
    checkpoint = two / "checkpoints" / str(STEPS)
    assert manifest.damage(checkpoint) is None
    hashed = [(two / f"hashed.{i}").read_text().split() for i in (0, 1)]
    covered = load_json(checkpoint / manifest.NAME)["files"]
    written = {name for name in covered if "ocdbt.process_1/" in name}
    assert len(written) >= 2
    assert set(hashed[1]) == written
    assert not set(hashed[0]) & written
    data = [name for names in hashed for name in names if "/d/" in name]
    assert len(data) == len(set(data))  # once, though it may have been ahead of the last file


@pytest.mark.parametrize("devices", [8, 4, 1])
def test_one_process_resumes_from_what_two_saved(devices, alone, two):
    _, like, data, *_ = many_runs.pieces(mesh(devices))
    manager = runs.open_manager(two / "checkpoints")
    state = runs.restore(manager, STEPS, like, data)
    manager.close()
    assert_equal(named_leaves(state), leaves(two, STEPS))
    assert data.get_state() == {"next_index": STEPS}


@pytest.mark.slow  # where the machine is loaded Gloo now and then aborts a survivor before its line
def test_a_killed_process_ends_the_others_by_name(tmp_path):
    (code, said), (killed, _) = many_runs.start(
        tmp_path, 1000, pause=0.05, what="SIGKILL", who=1, at=4
    )
    assert (code, killed) == (1, -signal.SIGKILL)
    assert re.search(
        r"^cv3jax: process 1 of 2 \(pid \d+ on .+\): nothing heard for 8 s; it has died",
        said,
        re.MULTILINE,
    )
    assert "Traceback" not in said


@pytest.mark.slow
def test_a_killed_process_0_ends_the_others_by_name(tmp_path):
    (killed, _), (code, said) = many_runs.start(
        tmp_path, 1000, pause=0.05, what="SIGKILL", who=0, at=4
    )
    assert (code, killed) == (1, -signal.SIGKILL)
    assert re.search(
        r"^cv3jax: process 0 of 2 \(pid \d+ on .+\) has died or cannot be reached",
        said,
        re.MULTILINE,
    )


@pytest.mark.slow
@pytest.mark.parametrize("who", [0, 1])
def test_a_process_that_stands_still_ends_the_others_by_name(who, tmp_path):
    code, said = many_runs.start(tmp_path, 1000, pause=0.05, what="SIGSTOP", who=who, at=4)[1 - who]
    assert code == 1
    assert re.search(
        rf"^cv3jax: process {who} of 2 \(pid .+: nothing heard for \d+ s", said, re.MULTILINE
    )


@pytest.mark.slow
def test_an_error_in_one_process_ends_the_others_with_its_words(tmp_path):
    (code, said), (raised, its) = many_runs.start(
        tmp_path, 1000, pause=0.05, what="raise", who=1, at=4
    )
    assert (code, raised) == (1, 1)
    assert re.search(
        r"^cv3jax: process 1 of 2 \(pid .+ ended: ZeroDivisionError: nothing divides by zero",
        said,
        re.MULTILINE,
    )
    assert its.count("ZeroDivisionError: nothing divides by zero") == 1


def test_sigterm_to_one_process_stops_all_after_the_same_step_and_one_resumes(alone, tmp_path):
    ended = many_runs.start(tmp_path, 1000, pause=0.05, what="SIGTERM", who=1, at=4)
    assert [code for code, _ in ended] == [128 + signal.SIGTERM] * 2, ended
    (step,) = runs.steps(tmp_path / "checkpoints")
    for _, said in ended:
        assert f"cv3jax: SIGTERM: stopped after step {step}, saved in" in said
    state = many_runs.run(tmp_path, step + 2, mesh(8))
    assert len(losses(tmp_path)) == step + 2
    whole = many_runs.run(tmp_path / "whole", step + 2, mesh(8))
    for name, value in named_leaves(whole).items():
        np.testing.assert_allclose(
            named_leaves(state)[name], value, rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.slow
def test_two_processes_resume_where_one_stopped(alone, tmp_path):
    workdir = shutil.copytree(alone[0], tmp_path / "w")
    ended = many_runs.start(workdir, STEPS + 2)
    assert [code for code, _ in ended] == [0, 0], ended
    whole = many_runs.run(tmp_path / "whole", STEPS + 2, mesh(8))
    np.testing.assert_allclose(losses(workdir), losses(tmp_path / "whole"), rtol=1e-5)
    theirs = leaves(workdir, STEPS + 2)
    for name, value in named_leaves(whole).items():
        np.testing.assert_allclose(theirs[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_recipe_trained_by_two_processes_is_the_one_trained_by_one(tmp_path):
    mine = tmp_path / "base"
    fields = (*tiny_runs.MESH["base"], "train.preview_every=3")
    ended = many_runs.together(["-m", "cv3jax", "train", *tiny_runs.argv("base", mine, *fields)])
    assert [code for code, _ in ended] == [0, 0], ended
    assert "checkpoint in" in ended[0][1]
    assert "checkpoint in" not in ended[1][1]  # one of them tells
    alone = tiny_runs.trained("base").workdir
    np.testing.assert_allclose(losses(mine), losses(alone), rtol=1e-4)
    theirs = leaves(mine, tiny_runs.STEPS)
    for name, value in leaves(alone, tiny_runs.STEPS).items():
        if name.startswith(("params", "ema", "key", "step")):
            np.testing.assert_allclose(theirs[name], value, rtol=1e-3, atol=1e-4, err_msg=name)
    assert {path.name for path in (mine / "previews").glob("step_*")} == {
        "step_0000003.png",
        "step_0000006.png",
    }
    cascade = load(mine)
    assert_equal(
        named_leaves(cascade.params["base"]),
        {k.removeprefix("ema/"): v for k, v in theirs.items() if k.startswith("ema/")},
    )
    assert set(cascade.params) == {"vae", "t5", "base"}
    with tiny_runs.devices(1):
        figures = training.run(
            tiny_runs.config("base", *tiny_runs.ALONE, f"train.steps={tiny_runs.STEPS + 1}"), mine
        )
    assert figures["steps"] == tiny_runs.STEPS + 1
