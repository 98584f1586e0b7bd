"""Test faults around the loader.

They are kill -9, records that are damaged after the build, worker processes that end, and a smaller
number of hosts.
"""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from loaders import loader_of
from process_tree import alive, children_of

from data_pipeline.images.decode import encode_png
from data_pipeline.io.errors import InputError
from data_pipeline.loading.damaged import readable
from data_pipeline.records.records import RecordWriter, make_record, open_records

COUNT, SHARDS = 37, 3
OPTIONS = {
    "batch_size": 4,
    "image_size": 8,
    "seed": 5,
    "zoom": (1.0, 1.5),
    "flip": True,
    "recaption_prob": 0.5,
}


def tokenize(captions):
    return np.array([[int(c)] for c in captions])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write records; record i has the value i, and noise in its corner."""
    out = tmp_path_factory.mktemp("faults") / "d"
    draws = np.random.default_rng(0)
    with RecordWriter(out, shards=SHARDS) as writer:
        for i in range(COUNT):
            image = np.full((14, 12, 3), i, np.uint8)
            image[:3, :3] = draws.integers(0, 256, (3, 3, 3))
            writer.write(
                make_record(encode_png(image), str(i), key=f"k{i}", recaption=str(100 + i))
            )
    return out


def loader(records, **kwargs):
    return loader_of(records, **{**OPTIONS, "tokenize": tokenize, "num_threads": 0, **kwargs})


def digest(batch) -> str:
    return hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest()


def digests(data, number):
    return [digest(batch) for batch in itertools.islice(data, number)]


def say(path: str, state: dict, out: str, **kwargs) -> None:
    """Write a line for each batch from `state` on, without end.

    A line has the batch's digest and the state after it. The processes of these tests run this.
    """
    data = loader(Path(path), **kwargs)
    data.set_state(state)
    with open(out, "w") as file:
        for batch in data:
            file.write(json.dumps([digest(batch), data.get_state()]) + "\n")
            file.flush()


def serve() -> None:
    """Start a process of `say` for each line of arguments, and print its number.

    Processes are forked because imports take seconds.
    """
    for line in sys.stdin:
        path, state, out, kwargs = json.loads(line)
        if not (pid := os.fork()):
            say(path, state, out, **kwargs)
        print(pid, flush=True)


@pytest.fixture(scope="module")
def begin():
    """Return a function (path, state, out, **kwargs) that starts `say` and returns its process."""
    code = "import test_data_loader_faults as t\nif __name__ == '__main__': t.serve()"
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path]),
    }
    server = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )

    def call(path, state, out, **kwargs):
        server.stdin.write(json.dumps([str(path), state, str(out), kwargs]) + "\n")
        server.stdin.flush()
        return int(server.stdout.readline())

    yield call
    server.kill()
    server.wait()


def lines_of(out: Path, least: int) -> list:
    """Return what a process of `say` has written when it has so many lines."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        written = out.read_text().rpartition("\n")[0].splitlines() if out.exists() else []
        if len(written) >= least:
            return [json.loads(line) for line in written]
        time.sleep(0.01)
    raise AssertionError(f"not {least} batches in two minutes")


def test_killed_at_random_batches_the_next_hundred_are_the_same(data, begin, tmp_path):
    expected = digests(loader(data), 400)
    state = {"next_index": 0}
    for number, least in enumerate((*np.random.default_rng().integers(3, 40, 5), 100)):
        out, first = tmp_path / str(number), state["next_index"]
        pid = begin(data, state, out, num_threads=1 + number % 2)
        lines_of(out, int(least))
        os.kill(pid, signal.SIGKILL)
        lines = lines_of(out, int(least))
        got = [line[0] for line in lines][: len(expected) - first]
        assert got == expected[first : first + len(got)]
        state = lines[min(int(least), len(lines)) - 1][1]  # as of an earlier checkpoint
        again = loader(data)
        again.set_state(state)
        assert digests(again, 100) == expected[state["next_index"] : state["next_index"] + 100]


def keys(batches):
    return [int(v) for b in batches for v in b["tokens"][:, 0] % 100]


def test_two_hosts_become_one_within_an_epoch(data):
    hosts = [loader(data, rows=rows) for rows in ((0, 3), (1, 2))]
    before = [keys(itertools.islice(host, 4)) for host in hosts]
    states = [host.get_state() for host in hosts]
    assert states[0] == states[1] == {"next_index": 4}
    one = loader(data)
    one.set_state(states[0])
    after = keys(itertools.islice(one, 6))[: COUNT - 16]
    assert sorted(before[0] + before[1] + after) == list(range(COUNT))


@pytest.fixture
def broken(data, tmp_path):
    """Return the same records, two of which are unreadable.

    The result also has their positions and the keys' numbers in the order of the source.
    """
    copy = tmp_path / "d"
    copy.mkdir()
    for path in data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    for shard in sorted(copy.glob("*array_record*"))[1:]:
        whole = bytearray(shard.read_bytes())
        whole[[i for i in range(len(whole)) if whole.startswith(b"\x89PNG", i)][5] + 60] ^= 1
        shard.write_bytes(whole)
    order, records, lost = [int(r["key"][1:]) for r in open_records(data)], open_records(copy), []
    for i in range(COUNT):
        try:
            _ = records[i]
        except InputError:
            lost.append(i)
    assert len(lost) == 2
    return copy, lost, order


def test_damaged_records_are_passed_over_and_nothing_else_changes(data, broken, capsys):
    folder, indices, order = broken
    whole = list(itertools.islice(loader(data), 30))
    passing = loader(folder, max_damaged=2)
    patched = list(itertools.islice(passing, 30))
    stand_in = {order[i]: order[(i + 1) % COUNT] for i in indices}
    assert len(patched) == 30
    changed = 0
    for a, b in zip(whole, patched, strict=True):
        for row, key in enumerate(keys([a])):
            if key in stand_in:
                changed += 1
                assert keys([b])[row] == stand_in[key]
                assert b["tokens"][row, 0] // 100 == a["tokens"][row, 0] // 100  # the same draws
                assert np.array_equal(b["sizes"][row], a["sizes"][row])
            else:
                assert all(np.array_equal(a[name][row], b[name][row]) for name in a)
    assert changed >= 6  # three epochs
    state = passing.get_state()
    assert state["next_index"] == 30
    assert sorted(state["damaged"]) == sorted(f"0:{index}" for index in indices)
    assert json.loads(json.dumps(state)) == state
    said = capsys.readouterr().err
    assert said.count("is replaced by the next one") == 2  # each once, not each epoch
    later = loader(folder, max_damaged=2)
    later.set_state(state)
    assert len(later.damaged) == 2
    assert digests(later, 30) == digests(passing, 30)
    assert len(later.damaged) == 2


def test_one_damaged_record_too_many_ends_it_and_the_first_is_named(broken):
    folder, _, _ = broken
    for threads in (0, 2):
        data = loader(folder, max_damaged=1, num_threads=threads)
        with pytest.raises(
            InputError,
            match=(
                r"damaged records: 2, but max_damaged = 1;.*the first: record \d+ of"
                r" .*array_record.* is"
                r" damaged"
            ),
        ):
            list(itertools.islice(data, 30))
        assert data.get_state()["next_index"] < 30
    with pytest.raises(InputError, match=r"^record \d+ of .*array_record.* is damaged"):
        list(itertools.islice(loader(folder), 30))
    with pytest.raises(InputError, match="max_damaged = 1;"):
        loader(folder, max_damaged=1).set_state(
            {"next_index": 3, "damaged": {"0:1": "one", "0:2": "two"}}
        )


def test_damaged_pixels_and_whole_runs_of_damaged_records(data):
    records = list(open_records(data))
    for i in (3, 4, 5):
        records[i] = {**records[i], "image": records[i]["image"][:40]}
    stream = loader(records, max_damaged=3, shuffle=False)
    assert keys([next(stream)]) == [int(records[i]["key"][1:]) for i in (0, 1, 2, 6)]
    assert keys([next(stream)])[:2] == [int(records[6]["key"][1:])] * 2
    assert sorted(stream.damaged) == ["0:3", "0:4", "0:5"]
    with pytest.raises(
        InputError, match="3 damaged records in a row; restore the files; the first: record 'k9'"
    ):
        list(itertools.islice(loader(records, max_damaged=2, shuffle=False), 2))
    with pytest.raises(InputError, match="damaged"):
        list(loader([{**r, "image": b""} for r in records], max_damaged=1000))


def test_what_looks_at_some_records_leaves_out_the_damaged(broken):
    folder, indices, order = broken
    assert [int(r["key"][1:]) for r in readable(open_records(folder))] == [
        key for i, key in enumerate(order) if i not in indices
    ]


def test_workers_make_the_same_batches_and_end_with_a_killed_parent(broken, begin, tmp_path):
    folder, _, _ = broken
    expected = loader(folder, max_damaged=2)
    lines = [[digest(batch), expected.get_state()] for batch in itertools.islice(expected, 20)]
    pid = begin(folder, lines[5][1], tmp_path / "out", num_workers=2, num_threads=1, max_damaged=2)
    deadline, spawned = time.monotonic() + 60, []
    while len(spawned) < 2 and time.monotonic() < deadline:
        for child in (
            spawned := children_of(pid, b"spawn_main")
        ):  # while it starts, as a terminal does
            os.kill(child, signal.SIGINT)
            os.kill(child, signal.SIGHUP)
        time.sleep(0.01)
    seen = lines_of(tmp_path / "out", 10)[:10]
    assert sorted(spawned) == sorted(children_of(pid, b"spawn_main"))
    children = children_of(pid)
    for child in spawned:  # and later
        os.kill(child, signal.SIGINT)
    assert lines_of(tmp_path / "out", 14)[:14] == lines[6:20]
    os.kill(pid, signal.SIGKILL)
    assert seen == lines[6:16]  # batches, positions, and what was damaged
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if alive(pid)]
