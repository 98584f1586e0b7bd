"""Test a workdir in a bucket of two processes, with one directory for both and with two."""

import shutil
import subprocess
import time

import faulty_proxy
import many_runs
import pytest
from object_servers import BUCKET, environment, serving
from states import assert_equal, leaves, untimed

from cv3jax.checkpoints import manifest, runs
from cv3jax.training.metrics import read_lines
from data_pipeline.io.objects import fetching, snapshots
from data_pipeline.io.objects.lease import NAME as LEASE
from data_pipeline.io.objects.mirror import STATE
from data_pipeline.io.objects.store import Store

STEPS, SAVE, HELD = 12, 4, 10
PATIENCE = 300.0  # seconds until a checkpoint has to be in the bucket

# each process works as `train` does: it writes a file of its own, and ends with the others
CODE = """
import argparse, os, sys
from pathlib import Path
from cv3jax import cli
from cv3jax.commands.workdirs import opened
from cv3jax.distributed import processes

def main(argv):
    parser = argparse.ArgumentParser()
    processes.add_flags(parser)
    parser.add_argument("--workdir", type=Path)
    parser.add_argument("--stores")
    args = parser.parse_args(argv)
    os.environ["CV3JAX_STORES"] = args.stores
    processes.start(args)
    with opened(args.workdir) as workdir:
        (workdir / f"part_{args.process_id}").write_text("x")
        processes.barrier("written")

cli.run_command(main, sys.argv[1:])
"""


@pytest.fixture(scope="module", params=["s3", pytest.param("gs", marks=pytest.mark.slow)])
def served(request):
    """Serve an empty bucket. Yields (its address, a proxy before it), which has no faults yet."""
    with (
        serving(request.param) as port,
        faulty_proxy.before(port, 0.0, 3) as proxy,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in environment(request.param, proxy.port).items():
            patch.setenv(name, value)
        yield f"{request.param}://{BUCKET}", proxy


def test_what_two_processes_wrote_into_one_directory_is_published(served, tmp_path):
    address = f"{served[0]}/shared"
    given = [f"--workdir={address}", f"--stores={tmp_path}"]
    ended = many_runs.together(["-c", CODE, *given])
    assert [code for code, _ in ended] == [0, 0], ended
    files, _ = snapshots.read_tree(Store(address))
    assert set(files) == {"part_0", "part_1"}


def saved(store: Store) -> list[int]:
    """Return the steps of the checkpoints that are published."""
    tree = snapshots.read_tree(store)
    places = [name.split("/") for name in (tree[0] if tree else {})]
    return sorted(int(one[1]) for one in places if one[::2] == ["checkpoints", "manifest.json"])


def killed(store: Store, processes: list[subprocess.Popen]) -> None:
    """Kill all processes once the second checkpoint is in the bucket."""
    limit = time.monotonic() + PATIENCE
    try:
        while saved(store)[-1:] != [2 * SAVE]:
            assert all(one.poll() is None for one in processes), processes[0].stderr.read()
            assert time.monotonic() < limit
            time.sleep(0.1)
    finally:
        for one in processes:
            one.kill()
            one.communicate(timeout=60)


def test_a_killed_run_of_hosts_apart_goes_on_on_other_hosts(served, tmp_path):
    address, proxy = served
    workdir, store = f"{address}/apart", Store(f"{address}/apart")
    given = {"save": SAVE, "what": "wait", "who": many_runs.ALL}
    held = many_runs.command(workdir, STEPS, at=HELD, stores=tmp_path / "first", **given)
    proxy.share = 0.02
    killed(store, many_runs.begin(held))
    # a host keeps nothing of a save that process 0 has
    work = next((tmp_path / "first" / "1").glob("*/work"))
    assert not [path for path in work.rglob("*") if path.is_file() and path.name != ".lock"]
    # other hosts, of which the second was the first one before, and has lost its files since
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "0").rename(tmp_path / "second" / "1")
    [state] = (tmp_path / "second" / "1").glob(f"*/{STATE}")
    shutil.rmtree(state.with_name("work"))
    ended = many_runs.start(workdir, STEPS, save=SAVE, stores=tmp_path / "second")
    assert [code for code, _ in ended] == [0, 0], ended
    assert "1 host without process 0's directory" in ended[0][1]
    assert not state.exists()  # else it would publish that directory, were it the first again
    proxy.share = 0.0
    alone = tmp_path / "alone"
    assert [code for code, _ in many_runs.start(alone, STEPS, save=SAVE)] == [0, 0]
    whole = tmp_path / "whole"
    files, _ = fetching.fetch(store, whole)
    assert runs.steps(whole / "checkpoints") == runs.steps(alone / "checkpoints")
    for step in runs.steps(whole / "checkpoints"):
        assert manifest.damage(whole / "checkpoints" / str(step)) is None
        assert_equal(leaves(whole, step), leaves(alone, step))
    lines = [untimed(read_lines(one / "metrics.jsonl")) for one in (whole, alone)]
    assert lines[0] == lines[1]
    # every byte was uploaded once: what process 1 has sent is what tree.json names
    sent = {place for name, (_, _, place) in files.items() if "ocdbt.process_1" in name}
    assert sent
    assert all(place.split("/")[2].isdigit() for place in sent), sent
    # and nothing else is left
    assert set(store.sizes("")) == {place for *_, place in files.values()} | {LEASE, snapshots.NAME}


def test_a_part_that_the_store_refuses_ends_all_hosts(served, tmp_path):
    address, proxy = served
    proxy.forbidden = b"ocdbt.process_1"
    try:
        ended = many_runs.start(f"{address}/refused", STEPS, save=SAVE, stores=tmp_path)
    finally:
        proxy.forbidden = b""
    assert [code for code, _ in ended] == [1, 1], ended
    for _, said in ended:
        assert "Traceback" not in said
        assert "a checkpoint could not be written" in said
        assert f"{address}/refused: the store refuses cv3jax-files/" in said
        assert "disk space" not in said
    assert saved(Store(f"{address}/refused")) == []


@pytest.mark.parametrize("who", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_process_that_cannot_write_its_part_ends_all(who, tmp_path):
    ended = many_runs.start(tmp_path, STEPS, save=SAVE, what="full", who=who, at=SAVE + 1)
    assert [code for code, _ in ended] == [1, 1], ended
    for _, said in ended:
        assert "Traceback" not in said
        assert "a checkpoint could not be written" in said
    assert 2 * SAVE not in runs.steps(tmp_path / "checkpoints")
