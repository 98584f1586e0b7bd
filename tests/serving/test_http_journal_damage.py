"""Test that a changed byte of a server's journal is noticed when it is opened."""

import random
import sqlite3

import http_server
import pytest
import square_engine

from cv3jax.serving.http import parameters
from cv3jax.serving.http.journal import CANCELLED, DONE, Journal, PictureRow, Row
from cv3jax.serving.http.plan import plan_generation
from data_pipeline.io.errors import InputError

JOBS = 12


@pytest.fixture
def path(tmp_path):
    """Write a journal of jobs, of which most ended, with two pictures each."""
    values = {"prompt": "a star over the sea", "n": 2, "seed": 1}
    values = parameters.read(values, parameters.GENERATION)
    plan = plan_generation(values, http_server.model(), square_engine.SquareEngine().sizes)
    file = tmp_path / "journal.sqlite"
    kept = Journal(file)
    for i in range(JOBS):
        kept.add(Row(f"job_{i}", "me", f"retry {i}", "ab" * 32, plan, 1000.0 + i))
        for number in range(2):
            about = {"seed": 1 + number, "revised_prompt": None}
            kept.add_picture(f"job_{i}", PictureRow(number, f"{i}_{number}.png", 99, about))
        if i % 3:
            kept.end(f"job_{i}", DONE if i % 2 else CANCELLED, 2000.0 + i, "over", "c")
    kept.close()
    return file


def content(path) -> tuple:
    kept = Journal(path)
    try:
        jobs = [kept.whole(f"job_{i}") for i in range(JOBS)]
        retries = [kept.find_retry("me", f"retry {i}") for i in range(JOBS)]
        return jobs, retries, kept.unfinished(), kept.known(), kept.old_files(1e9)
    finally:
        kept.close()


def test_each_flip_is_noticed_or_changes_nothing(path):
    data, before = path.read_bytes(), content(path)
    assert len(before[2]) == JOBS // 3
    rng, lines = random.Random(0), []
    places = [i for i, byte in enumerate(data) if byte]
    for place in rng.sample(places, 400):  # those of texts and numbers, not of empty pages
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        try:
            found = content(path)
        except InputError as e:
            lines.append(str(e))
        else:
            assert found == before, place
    assert len(lines) > 60
    assert all(str(path) in line and len(line.splitlines()) == 1 for line in lines)


@pytest.mark.parametrize(
    "change",
    [
        "update jobs set owner = 'other' where id = 'job_1'",
        "update jobs set state = 'accepted', ended = null where id = 'job_1'",
        "update jobs set plan = replace(plan, 'star', 'moon') where id = 'job_0'",
        "update jobs set accepted = 1.0 where id = 'job_0'",
        "update jobs set digest = 'x' where id = 'job_0'",
        "update pictures set file = 'other.png' where job = 'job_2' and number = 1",
        "update pictures set size = 98 where job = 'job_2' and number = 1",
        "update pictures set about = '{}' where job = 'job_2' and number = 1",
    ],
)
def test_a_changed_row_is_one_line(path, change):
    with sqlite3.connect(path) as db:
        assert db.execute(change).rowcount == 1
    with pytest.raises(InputError, match=r"journal\.sqlite is damaged: a row of its (jobs|pict)"):
        Journal(path)


def test_a_journal_of_version_1_is_read_and_gets_digests(path):
    before = content(path)
    with sqlite3.connect(path) as db:
        for table in ("jobs", "pictures"):
            db.execute(f"alter table {table} drop column digest")
        db.execute("pragma user_version = 1")
    assert content(path) == before
    kept = Journal(path)
    assert kept.end("job_0", DONE, 3000.0)
    kept.close()
    with sqlite3.connect(path) as db:
        assert db.execute("pragma user_version").fetchone() == (2,)
        signed = db.execute("select id from jobs where digest is not null").fetchall()
    assert signed == [("job_0",)]
    assert [row.id for row in content(path)[2]] == [row.id for row in before[2]][1:]
