"""Test the agreement on the last step while another process compiles or dies.

A store of keys in this process replaces that of jax.distributed.
"""

import signal
import threading
import time

from cv3jax.distributed import liveness
from cv3jax.distributed.liveness import BEATS, NAMES, POSITIONS, Peers

PATIENCE = 0.5  # seconds
# at most, until a process that stands still is missed: patience / interval = 20 of them, one more
# than those, and the first
LOOKS = 22


class Store:
    """Hold the keys of process 0, which is real, and of process 1, which compiles.

    Process 1 sends heartbeats and has no position until it `begins` a step. If it `dies`, it does
    so when process 0 has published its own position. What process 0 does after that is counted.
    """

    def __init__(self, dies: bool):
        self.keys = {f"{NAMES}1": "process 1 of 2 (pid 7 on there)", f"{BEATS}1": "0"}
        self.dies, self.dead, self.looks, self.passes = dies, False, 0, 0
        self.deciding = threading.Event()

    def begins(self, step: int) -> None:
        self.keys[f"{POSITIONS}1"] = str(step)

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        self.keys[key] = value
        self.passes += self.dead and key == f"{BEATS}0"
        if key == f"{POSITIONS}0":
            self.dead = self.dies
            self.deciding.set()

    def blocking_key_value_get(self, key: str, timeout: int) -> str:
        return self.keys[key]

    def key_value_dir_get(self, directory: str) -> list[tuple[str, str]]:
        if directory == BEATS:
            self.looks += self.dead
            if not self.dead:
                self.keys[f"{BEATS}1"] = str(int(self.keys[f"{BEATS}1"]) + 1)
        return [(key, value) for key, value in list(self.keys.items()) if key.startswith(directory)]


class Deciding:
    """Hold process 0, which is asked to stop after its step 3."""

    def __init__(self, monkeypatch, *, dies: bool):
        self.ends = []
        monkeypatch.setattr(
            Peers, "_end", lambda peers, *what: self.ends.append(what) or peers._exit(what[1])
        )
        monkeypatch.setattr(liveness.os, "_exit", lambda code: self.peers._closed.set())
        self.store = Store(dies)
        self.peers = Peers(self.store, 0, 2, "127.0.0.1:1", PATIENCE)
        # the others have not said how far they are
        assert self.peers.last(3, signal.SIGTERM) is None
        assert self.store.deciding.wait(60)


def test_a_process_that_dies_before_its_first_step_is_named_to_those_who_wait_for_its_position(
    monkeypatch,
):
    run = Deciding(monkeypatch, dies=True)
    run.peers._thread.join(20)
    assert not run.peers._thread.is_alive()
    silent = (
        "process 1 of 2 (pid 7 on there): nothing heard for 0.5 s; it has died or cannot be reached"
    )
    assert run.ends == [(f"{silent}. {liveness.AGAIN}", 1)]
    assert run.store.looks <= LOOKS
    assert run.store.passes <= 10 * LOOKS  # of a tenth of the interval each


def test_an_error_caused_by_the_death_of_a_peer_is_not_reported_before_the_death(monkeypatch):
    run = Deciding(monkeypatch, dies=True)
    run.peers.suspect(RuntimeError("Gloo: Connection reset by peer"))
    assert run.peers._closed.is_set()  # the process has ended
    assert len(run.ends) == 1


def test_a_process_that_compiles_is_waited_for_and_all_stop_one_step_after_the_furthest(
    monkeypatch,
):
    run = Deciding(monkeypatch, dies=False)
    time.sleep(2 * PATIENCE)
    assert not run.ends
    run.store.begins(5)
    stops = [run.peers.last(step, signal.SIGTERM) for step in (4, 5, 6, 7)]
    run.peers._closed.set()
    assert stops == [None, None, signal.SIGTERM, signal.SIGTERM]
