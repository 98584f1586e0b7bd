"""Test the workdir in a bucket of two processes, which must see one directory."""

import many_runs
import pytest
from object_servers import BUCKET, environment, serving

from data_pipeline.io.objects import snapshots
from data_pipeline.io.objects.lease import NAME as LEASE
from data_pipeline.io.objects.store import Store

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
    os.environ["CV3JAX_STORES"] = args.stores.replace("RANK", str(args.process_id))
    processes.start(args)
    with opened(args.workdir) as workdir:
        (workdir / f"part_{args.process_id}").write_text("x")
        processes.barrier("written")

cli.run_command(main, sys.argv[1:])
"""


@pytest.fixture(scope="module", params=["s3", "gs"])
def server(request):
    with serving(request.param) as port, pytest.MonkeyPatch.context() as patch:
        for name, value in environment(request.param, port).items():
            patch.setenv(name, value)
        yield f"{request.param}://{BUCKET}"


def test_what_two_processes_wrote_into_one_directory_is_published(server, tmp_path):
    address = f"{server}/shared"
    given = [f"--workdir={address}", f"--stores={tmp_path}"]
    ended = many_runs.together(["-c", CODE, *given])
    assert [code for code, _ in ended] == [0, 0], ended
    files, _ = snapshots.read_tree(Store(address))
    assert set(files) == {"part_0", "part_1"}


def test_processes_with_directories_of_their_own_are_refused(server, tmp_path):
    address = f"{server}/apart"
    given = [f"--workdir={address}", f"--stores={tmp_path}/RANK"]
    ended = many_runs.together(["-c", CODE, *given])
    assert [code for code, _ in ended] == [2, 2], ended
    for _, said in ended:
        assert "the processes of this run do not see one directory; set CV3JAX_STORES" in said
        assert "Traceback" not in said
    assert set(Store(address).sizes("")) == {LEASE}
