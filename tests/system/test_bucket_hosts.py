"""Test the real commands with a workdir in a bucket, on two hosts that have no directory in common.

The second command resumes on two other hosts. The tokenizer of the random text encoder, which
process 0 makes, reaches both.
"""

import shutil
import subprocess
import sys

import many_runs
import pytest
import tiny_runs
from object_servers import BUCKET, environment, serving
from states import assert_equal, leaves
from subprocesses import environment as machine

from cv3jax.checkpoints import runs
from cv3jax.commands import sample
from data_pipeline.io.objects import fetching, snapshots
from data_pipeline.io.objects.mirror import mirrored
from data_pipeline.io.objects.store import Store

BOTH = ("mesh.data=1", "mesh.fsdp=2", "batch.per_device=4")  # over both hosts


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Serve a bucket with a trained autoencoder. Yields its address."""
    with serving("s3") as port, pytest.MonkeyPatch.context() as patch:
        for name, value in environment("s3", port).items():
            patch.setenv(name, value)
        patch.setenv("CV3JAX_STORES", str(tmp_path_factory.mktemp("stores")))
        with mirrored(f"s3://{BUCKET}/vae") as work:
            shutil.copytree(tiny_runs.trained("vae").workdir / "cascade", work / "cascade")
        yield f"s3://{BUCKET}"


def together(stores, *args: str) -> list[str]:
    """Run a command as two processes, each with its own disk. Returns what each said."""
    place = (f"--coordinator=127.0.0.1:{many_runs.free_port()}", "--num-processes=2")
    started = [
        subprocess.Popen(
            [sys.executable, "-m", "cv3jax", *args, *place, f"--process-id={i}"],
            env=machine(CV3JAX_STORES=str(stores / str(i))),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    said = [one.communicate(timeout=600)[1] for one in started]
    assert [one.returncode for one in started] == [0, 0], said
    return said


def trained(served: str, workdir: str, stores, steps: int) -> list[str]:
    fields = (*BOTH, f"cascade={served}/vae", "train.log_every=1", "train.save_every=2")
    given = tiny_runs.argv("base", workdir, *fields, f"train.steps={steps}")
    return together(stores, "train", *given)


def drawn(served: str, name: str, folder, steps: int) -> list:
    """Return what `sample` draws with the cascade of a run: a picture and the contact sheet."""
    given = ["--prompt", "a red circle", "--steps", str(steps), "--out", str(folder)]
    sample.main(["--checkpoint", f"{served}/{name}", *given])
    return list(folder.glob("*.png"))


def test_the_cascade_of_two_hosts_is_sampled(served, tmp_path):
    trained(served, f"{served}/base", tmp_path / "stores", 2)
    assert len(drawn(served, "base", tmp_path / "out", 2)) == 2


@pytest.mark.slow
def test_two_hosts_resume_and_distil_what_two_others_trained(served, tmp_path):
    trained(served, f"{served}/again", tmp_path / "first", 2)
    said = trained(served, f"{served}/again", tmp_path / "second", 4)
    assert "cv3jax: fetching" in said[0]
    whole, alone = tmp_path / "whole", tmp_path / "alone"
    fetching.fetch(Store(f"{served}/again"), whole)
    assert runs.steps(whole / "checkpoints") == [2, 4]
    trained(served, str(alone), tmp_path / "third", 4)
    assert_equal(leaves(whole, 4), leaves(alone, 4))

    rounds = tiny_runs.rounds({2: 2, 1: 2})
    fields = (*BOTH, f"cascade={served}/again", f"distill.rounds={rounds}", "sample.steps=4")
    given = tiny_runs.distill_argv("base", f"{served}/fast", *fields)
    together(tmp_path / "fourth", "distill", *given)
    made = snapshots.read_tree(Store(f"{served}/fast"))[0]
    finished = {name for name in made if name.endswith("cascade/base/manifest.json")}
    assert len(finished) == 3  # of two rounds, and the last one's
    together(tmp_path / "fifth", "distill", *given)  # which finds all rounds done
    assert len(drawn(served, "fast", tmp_path / "out", 1)) == 2
