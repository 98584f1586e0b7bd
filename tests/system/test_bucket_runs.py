"""Test a whole small run in a bucket, by the real commands, of which requests fail now and then.

Data, training, kill -9, resuming on another machine, distillation and samples: the numbers are
those of a run on this machine's disk that was never stopped.
"""

import subprocess
from pathlib import Path

import bucket_runs
import pytest
import subprocesses
import tiny_runs
from image_shards import tar
from states import assert_equal, leaves, untimed

from cv3jax.checkpoints import runs
from cv3jax.training.metrics import read_lines
from data_pipeline.io.objects.reading import local
from data_pipeline.records.records import open_records

STEPS, SAVE_EVERY = 60, 10
FIELDS = (
    *tiny_runs.ALONE,
    f"train.steps={STEPS}",
    f"train.save_every={SAVE_EVERY}",
    "train.log_every=5",
    "data.shuffle=windows:2",
)
PROMPT = "a small green star, black background"


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """Return the place of a dataset's input, and of the run on this machine's disk."""
    place = tmp_path_factory.mktemp("alone")
    records = open_records(tiny_runs.scenes())
    pairs = ((f"{n:03d}", records[n]) for n in range(len(records)))
    files = [
        (f"{name}.{end}", data)
        for name, record in pairs
        for end, data in (("png", record["image"]), ("txt", record["caption"].encode()))
    ]
    tar(place / "0.tar", files)
    subprocesses.run("cv3jax", *built(place, str(place / "data")))
    fields = (*FIELDS, f"data.path={place / 'data'}")
    subprocesses.run("cv3jax", "train", *tiny_runs.argv("base", place / "base", *fields))
    return place


def built(place: Path, out: str) -> tuple[str, ...]:
    return ("data", "build", "--input", str(place / "0.tar"), "--out", out)


@pytest.mark.parametrize("kind", ["s3", pytest.param("gs", marks=pytest.mark.slow)])
def test_a_whole_run_in_a_bucket_is_the_run_on_a_disk(kind, alone, tmp_path):
    with bucket_runs.bucket(kind, tmp_path / "machines", seed=7) as bucket:
        address, log = bucket.address, tmp_path / "log"
        bucket.run(*built(alone, f"{address}/data"))
        bucket.put(tiny_runs.trained("vae").workdir / "cascade", "vae")
        shards = ("data.cache_gb=0.1", f"data.cache_dir={tmp_path / 'shards'}")
        read = (f"data.path={address}/data", *shards)
        given = tiny_runs.argv("base", f"{address}/base", *FIELDS, *read, f"cascade={address}/vae")
        first = bucket.start(log, "train", *given)
        try:
            bucket_runs.wait_for(lambda: "process" in bucket.holder("base"), first, log)
            second = subprocess.run(
                subprocesses.command("cv3jax", "train", *given),
                env=subprocesses.environment(**bucket.of_machine("two")),
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert second.returncode == 2, second.stderr
            said = f"--workdir {address}/base is in use by process {first.pid} on "
            assert said in second.stderr.splitlines()[-1]
            assert not list((tmp_path / "machines" / "two").glob("*/work"))
            bucket_runs.wait_for(lambda: bool(bucket.saved("base")), first, log)
        finally:
            bucket_runs.kill(first)
        saved = bucket.saved("base")[-1]
        assert saved < STEPS
        bucket.move_holder("base", "far")
        resumed = bucket.run("train", *given, machine="three")
        assert f"cv3jax: fetching {address}/base" in resumed.stderr
        assert f"{address}/base/cascade" in resumed.stderr
        whole = bucket.fetched("base", tmp_path / "base")
        assert_equal(leaves(whole, STEPS), leaves(alone / "base", STEPS))
        curves = [untimed(read_lines(one / "metrics.jsonl")) for one in (whole, alone / "base")]
        assert curves[0] == curves[1]
        # another machine finds the other parts
        parts = runs.run_of(whole / "checkpoints", STEPS)["cascade"]["parts"]
        assert parts["vae"] == f"{address}/vae#cascade/vae"

        shown = bucket.run("status", f"{address}/base").stdout
        assert f"{address}/base: base, finished" in shown
        distil = tiny_runs.arguments(
            "scenes_distill_base:tiny",
            f"{address}/fast",
            f"data.path={tiny_runs.scenes()}",
            *tiny_runs.SCHEDULE,
            *tiny_runs.ALONE,
            *tiny_runs.SMALLEST,
            "optim.kind=adamw",
            f"cascade={address}/base",
            f"distill.rounds={tiny_runs.rounds({2: 2})}",
            "sample.steps=4",
        )
        bucket.run("distill", *distil, machine="four")
        drawn = ("sample", "--checkpoint", f"{address}/fast", "--prompt", PROMPT, "--steps", "2")
        bucket.run(*drawn, "--out", f"{address}/pictures", machine="five")
        in_bucket = local(f"{address}/pictures")
        assert len(list(in_bucket.glob("*.png"))) == 2  # with the contact sheet
        assert all(place == name for name, (_, _, place) in bucket.tree("pictures").items())
        on_disk = tmp_path / "pictures"
        bucket.run(*drawn, "--out", str(on_disk), machine="five")
        for path in in_bucket.glob("*.png"):
            assert path.read_bytes() == (on_disk / path.name).read_bytes()
        assert sum(bucket.proxy.faults.values()) >= 3, bucket.proxy.faults
