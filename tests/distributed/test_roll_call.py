"""Test that processes find each other, or name the missing ones. Each is a thread here."""

import socket
import threading
import time

import pytest
from many_runs import free_port

from cv3jax.distributed import processes, roll_call


def call(indices, count: int, seconds: float, coordinator: str | None = None) -> dict[int, str]:
    """Return how each of the processes ends: "" or the error that it raises."""
    coordinator = coordinator or f"127.0.0.1:{free_port()}"
    ends: dict[int, str] = {}

    def one(index):
        try:
            roll_call.answer(coordinator, count, index, seconds)
            ends[index] = ""
        except ConnectionError as e:
            ends[index] = str(e)

    threads = [threading.Thread(target=one, args=(index,)) for index in indices]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join(60)
    return ends


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_all_find_each_other_whoever_comes_first_and_the_port_is_free_again(order):
    port = free_port()
    assert call(order, 3, 20, f"127.0.0.1:{port}") == {0: "", 1: "", 2: ""}
    with socket.create_server(("127.0.0.1", port)):
        pass


@pytest.mark.parametrize(
    ("there", "count", "missing"), [((0, 2), 3, "1"), ((0,), 2, "1"), ((1, 0), 4, "2, 3")]
)
def test_who_is_missing_is_said_by_all_that_are_there(there, count, missing):
    ends = call(there, count, 1.0)
    said = f"process {missing} of {count} did not connect within 1 s"
    assert set(ends) == set(there)
    assert all(said in end for end in ends.values())


def test_without_process_0_the_others_say_so():
    assert "process 0 did not answer at 127.0.0.1:" in call((1,), 2, 0.6)[1]


def test_a_stranger_at_the_port_is_not_counted():
    port = free_port()

    def stranger():
        for said in (b"GET / HTTP/1.1\r\n\r\n", b"cv3jax 7 of 2\n", b"cv3jax 1 of 3\n", b""):
            until = time.monotonic() + 10
            while time.monotonic() < until:
                try:
                    with socket.create_connection(("127.0.0.1", port), timeout=5) as s:
                        s.sendall(said)
                    break
                except OSError:
                    time.sleep(0.05)

    other = threading.Thread(target=stranger)
    other.start()
    ends = call((0,), 2, 3.0, f"127.0.0.1:{port}")
    other.join(30)
    assert "process 1 of 2 did not connect" in ends[0]


def test_a_port_that_is_taken_is_named():
    with socket.create_server(("", 0)) as taken:
        place = f"127.0.0.1:{taken.getsockname()[1]}"
        assert f"process 0 cannot listen at {place}" in call((0,), 2, 1.0, place)[0]


STEP = {
    "SLURM_JOB_ID": "77",
    "SLURM_STEP_NODELIST": "here",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
}


@pytest.mark.parametrize(
    ("env", "count"),
    [
        (STEP, 4),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "4"}, 4),
        ({**STEP, "SLURM_STEP_NUM_TASKS": "1"}, None),  # a shell inside an allocation of four
        ({**STEP, "SLURM_NTASKS": "1"}, None),
        ({name: value for name, value in STEP.items() if name != "SLURM_PROCID"}, None),
        ({}, None),
    ],
)
def test_a_step_of_one_task_is_a_process_alone(env, count, monkeypatch):
    for name in {*STEP, "SLURM_STEP_NUM_TASKS"}:
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    place = processes._slurm_place(env)
    assert (place and place.num_processes) == count
    if place:
        assert place.coordinator.startswith("here:")
