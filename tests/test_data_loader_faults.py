"""What goes wrong around the loader: kill -9, records damaged after the build, worker processes and their ends, hosts that are fewer."""

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

from data_pipeline.errors import InputError
from data_pipeline.images import encode_png
from data_pipeline.loader import make_loader
from data_pipeline.records import RecordWriter, make_record, open_records

COUNT, SHARDS = 37, 3
OPTIONS = {"batch_size": 4, "image_size": 8, "seed": 5, "zoom": (1.0, 1.5), "flip": True, "recaption_prob": 0.5}


def tokenize(captions):
    return np.array([[int(c)] for c in captions])


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Record i has value i all over, and noise in its corner."""
    out = tmp_path_factory.mktemp("faults") / "d"
    draws = np.random.default_rng(0)
    with RecordWriter(out, shards=SHARDS) as writer:
        for i in range(COUNT):
            image = np.full((14, 12, 3), i, np.uint8)
            image[:3, :3] = draws.integers(0, 256, (3, 3, 3))
            writer.write(make_record(encode_png(image), str(i), key=f"k{i}", recaption=str(100 + i)))
    return out


def loader(records, **kwargs):
    return make_loader(records, **{**OPTIONS, "tokenize": tokenize, "num_threads": 0, **kwargs})


def digest(batch) -> str:
    return hashlib.sha256(b"".join(batch[name].tobytes() for name in sorted(batch))).hexdigest()


def digests(data, number):
    return [digest(batch) for batch in itertools.islice(data, number)]


def say(path: str, state: str, **kwargs) -> None:
    """What the processes of these tests do: from `state` on, for ever, a line of each batch's digest and the state after it."""
    data = loader(Path(path), **kwargs)
    data.set_state(json.loads(state))
    for batch in data:
        print(json.dumps([digest(batch), data.get_state()]), flush=True)


def start(data, state, **kwargs) -> subprocess.Popen:
    code = f"import test_data_loader_faults as t\nif __name__ == '__main__': t.say({str(data)!r}, {json.dumps(state)!r}, **{kwargs!r})"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(Path(__file__).parent.parent)])}
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)


def killed(process: subprocess.Popen, after: int) -> list:
    """Its first `after` lines; it is killed then, in the middle of whatever it does."""
    lines = [json.loads(process.stdout.readline()) for _ in range(after)]
    process.send_signal(signal.SIGKILL)
    process.stdout.close()
    assert process.wait(60) == -signal.SIGKILL
    return lines


def test_killed_at_random_batches_the_next_hundred_are_the_same(data):
    expected = digests(loader(data), 300)
    position, state, seen = 0, {"next_index": 0}, []
    for stop in np.random.default_rng().integers(3, 40, 4):
        lines = killed(start(data, state, num_threads=2), int(stop))
        assert [line[0] for line in lines] == expected[position : position + stop]
        position, state = position + int(stop), lines[-1][1]
        seen.append(state)
    lines = killed(start(data, state, num_threads=1), 100)
    assert [line[0] for line in lines] == expected[position : position + 100]
    for state in [*seen, lines[-1][1]]:  # at each of these five
        again = loader(data, num_threads=1)
        again.set_state(state)
        first = state["next_index"]
        assert digests(again, 100) == expected[first : first + 100]
        again.close()


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


def damage(folder: Path, *numbers: int) -> dict[int, tuple[int, int]]:
    """Flip a bit in the images of these records; {number: (shard, place in it)} by the order in which they were written."""
    for number in numbers:
        shard = folder / f"records-train.array_record-{number % SHARDS:05d}-of-{SHARDS:05d}"
        whole = bytearray(shard.read_bytes())
        places = [i for i in range(len(whole)) if whole.startswith(b"\x89PNG", i)]
        whole[places[number // SHARDS] + 60] ^= 1
        shard.write_bytes(whole)
    return {number: (number % SHARDS, number // SHARDS) for number in numbers}


@pytest.fixture()
def broken(data, tmp_path):
    """The same records, two of which can no longer be read; and their numbers in the order of the source."""
    copy = tmp_path / "d"
    copy.mkdir()
    for path in data.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    damage(copy, 10, 23)
    order = [int(r["key"][1:]) for r in open_records(data)]
    return copy, [order.index(10), order.index(23)], order


def test_damaged_records_are_passed_over_and_nothing_else_changes(data, broken, capsys):
    folder, indices, order = broken
    whole = list(itertools.islice(loader(data), 30))
    passing = loader(folder, max_damaged=2)
    patched = list(itertools.islice(passing, 30))
    stand_in = {10: order[indices[0] + 1], 23: order[indices[1] + 1]}
    assert len(patched) == 30
    changed = 0
    for a, b in zip(whole, patched):
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
    assert said.count("the next record stands in") == 2  # each once, not each epoch
    later = loader(folder, max_damaged=2)
    later.set_state(state)
    assert len(later.damaged) == 2
    assert digests(later, 30) == digests(passing, 30)
    assert len(later.damaged) == 2


def test_one_damaged_record_too_many_ends_it_and_the_first_is_named(broken):
    folder, _, _ = broken
    for threads in (0, 2):
        data = loader(folder, max_damaged=1, num_threads=threads)
        with pytest.raises(InputError, match=r"2 damaged records, at most 1 .*the first: record \d+ of .*array_record.* is damaged"):
            list(itertools.islice(data, 30))
        assert data.get_state()["next_index"] < 30
    with pytest.raises(InputError, match=r"^record \d+ of .*array_record.* is damaged"):
        list(itertools.islice(loader(folder), 30))
    with pytest.raises(InputError, match="at most 1"):
        loader(folder, max_damaged=1).set_state({"next_index": 3, "damaged": {"0:1": "one", "0:2": "two"}})


def test_damaged_pixels_and_whole_runs_of_damaged_records(data):
    records = list(open_records(data))
    for i in (3, 4, 5):
        records[i] = {**records[i], "image": records[i]["image"][:40]}
    stream = loader(records, max_damaged=3, shuffle=False)
    assert keys([next(stream)]) == [int(records[i]["key"][1:]) for i in (0, 1, 2, 6)]
    assert keys([next(stream)])[:2] == [int(records[6]["key"][1:])] * 2
    assert sorted(stream.damaged) == ["0:3", "0:4", "0:5"]
    with pytest.raises(InputError, match="3 damaged records one after the other; the first: record 'k9'"):
        list(itertools.islice(loader(records, max_damaged=2, shuffle=False), 2))
    with pytest.raises(InputError, match="damaged"):
        list(loader([{**r, "image": b""} for r in records], max_damaged=1000))


def test_workers_make_the_same_batches_and_end_with_a_killed_parent(broken):
    folder, _, _ = broken
    expected = loader(folder, max_damaged=2)
    lines = [[digest(batch), expected.get_state()] for batch in itertools.islice(expected, 20)]
    process = start(folder, lines[5][1], num_workers=2, num_threads=1, max_damaged=2)
    seen = [json.loads(process.stdout.readline()) for _ in range(10)]
    children = [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    workers = [pid for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(workers) == 2
    killed(process, 0)
    assert seen == lines[6:16]  # batches, positions, and what was damaged
    deadline = time.monotonic() + 30
    while any(alive(pid) for pid in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in children if alive(pid)]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
