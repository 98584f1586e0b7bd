"""Test launch/slurm.sh under a real Slurm with two tasks, for every way in which a job ends.

tests/helpers/slurm_cluster.py starts it.
"""

import sys
from pathlib import Path

import pytest
import slurm_cluster
import subprocesses
import tiny_runs

from cv3jax.training.metrics import read_lines

pytestmark = pytest.mark.slow
TASKS = 1  # of the run that trains: two as soon as it can have two processes
SCRIPT = Path(__file__).parents[2] / "launch" / "slurm.sh"
# what stands in for a long command: says SAVED and exits 0 at SIGTERM, as `cv3jax train` does
PATIENT = """
import signal, sys, time
def save(*_):
    print("SAVED", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
print("UP", flush=True)
time.sleep({seconds})
sys.exit({code})
"""
TOGETHER = """
import jax
from jax.experimental.multihost_utils import process_allgather
jax.distributed.initialize()
total = process_allgather(jax.numpy.array(jax.process_index() + 1)).sum()
print("SUM", total, "OF", jax.process_count())
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory):
    with slurm_cluster.cluster(tmp_path_factory.mktemp("slurm")) as running:
        yield running


class Job:
    """Submit a job with sbatch in its own folder."""

    def __init__(
        self,
        slurm,
        folder: Path,
        *command: str,
        tasks: int = 2,
        options: tuple[str, ...] = (),
        **environment: str,
    ):
        self.slurm, self.folder = slurm, folder
        slurm = slurm._replace(environment={**slurm.environment, **environment})
        self.number = slurm.run(
            "sbatch", "--parsable", f"--ntasks={tasks}", *options, str(SCRIPT), *command, cwd=folder
        ).strip()

    @property
    def fields(self) -> dict[str, str]:
        return self.slurm.job(self.number)

    @property
    def log(self) -> str:
        return (self.folder / f"cv3jax-{self.number}.log").read_text()

    def task(self, index: int) -> str:
        path = self.folder / f"cv3jax-{self.number}" / f"{index}.log"
        return path.read_text() if path.exists() else ""

    def until(self, **fields: str) -> None:
        self.slurm.wait(lambda: self.fields.items() >= fields.items())

    def until_up(self) -> None:
        self.slurm.wait(
            lambda: all(self.task(i).count("UP") > int(self.fields["Restarts"]) for i in range(2))
        )

    def until_queued_again(self) -> None:
        """Wait until the job is in the queue again, and shorten Slurm's wait of two minutes.

        It is not shortened to zero: Slurm revokes whatever was created in the second in which a job
        ended.
        """
        self.until(JobState="PENDING", Reason="BeginTime")
        self.slurm.run("scontrol", "update", f"jobid={self.number}", "starttime=now+3seconds")


def patient(seconds: float = 60, code: int = 0) -> tuple[str, ...]:
    return sys.executable, "-c", PATIENT.format(seconds=seconds, code=code)


def test_two_tasks_are_two_processes_of_one_run(slurm, tmp_path):
    job = Job(
        slurm,
        tmp_path,
        sys.executable,
        "-c",
        TOGETHER,
        JAX_PLATFORMS="cpu",
        JAX_NUM_CPU_DEVICES="1",
    )
    job.until(JobState="COMPLETED")
    assert [job.task(i).splitlines()[-1] for i in range(2)] == ["SUM 3 OF 2"] * 2
    assert job.log.splitlines()[-1].endswith("done")


def test_warned_before_its_time_limit_it_saves_and_goes_back_to_the_queue(slurm, tmp_path):
    # Slurm may be 60 s early
    job = Job(slurm, tmp_path, *patient(), options=("--time=2", "--signal=B:TERM@50"))
    job.until_queued_again()
    assert [job.task(i).count("SAVED") for i in range(2)] == [1, 1]
    assert "stopped by SIGTERM (exit code 0); back to the queue" in job.log
    job.until(Restarts="1", JobState="RUNNING")
    slurm.run("scancel", job.number)


def test_preempted_it_saves_and_goes_back_to_the_queue(slurm, tmp_path):
    job = Job(slurm, tmp_path, *patient())
    job.until_up()
    urgent = slurm.run(
        "sbatch", "--parsable", "--partition=urgent", "--ntasks=2", "--wrap=sleep 1", cwd=tmp_path
    ).strip()
    job.until_queued_again()
    assert [job.task(i).count("SAVED") for i in range(2)] == [1, 1]
    assert "preempted (exit code 0); back to the queue" in job.log
    slurm.wait(lambda: slurm.job(urgent)["JobState"] == "COMPLETED")
    slurm.run("scancel", job.number)


def test_cancelled_it_is_not_queued_again(slurm, tmp_path):
    job = Job(slurm, tmp_path, *patient())
    job.until_up()
    slurm.run("scancel", job.number)
    job.until(JobState="CANCELLED")
    assert [job.task(i).count("SAVED") for i in range(2)] == [1, 1]
    assert "back to the queue" not in job.log


def test_tasks_that_are_signalled_end_the_job(slurm, tmp_path):
    job = Job(slurm, tmp_path, *patient())
    job.until_up()
    slurm.run("scancel", "--signal=TERM", job.number)
    job.until(JobState="COMPLETED")
    assert [job.task(i).count("SAVED") for i in range(2)] == [1, 1]


def test_bad_input_is_not_tried_again(slurm, tmp_path):
    """This also holds if srun ends a task that would have continued."""
    refused = (
        "import os, sys, time; os.environ['SLURM_PROCID'] == '1' and sys.exit(2); time.sleep(600)"
    )
    job = Job(slurm, tmp_path, sys.executable, "-c", refused)
    job.until(JobState="FAILED")
    assert job.fields["ExitCode"] == "2:0"
    assert "the command's input has to change" in job.log
    assert "back to the queue" not in job.log


def test_failures_are_tried_again_so_many_times(slurm, tmp_path):
    # of two, one may be ended by the other's failure
    job = Job(slurm, tmp_path, *patient(0, code=7), tasks=1, RESTARTS="1")
    job.until_queued_again()
    job.until(JobState="FAILED")
    assert (job.fields["Restarts"], job.fields["ExitCode"]) == ("1", "7:0")
    assert "exit code 7; back to the queue" in job.log
    assert job.task(0).count("UP") == 2  # appended


def test_a_task_that_dies_is_named_and_ends_the_others(slurm, tmp_path):
    dies = (
        "import os, time; os.environ['SLURM_PROCID'] == '1' and os.kill(os.getpid(), 9);"
        " time.sleep(600)"
    )
    job = Job(slurm, tmp_path, sys.executable, "-c", dies, RESTARTS="0")
    job.until(JobState="FAILED")
    assert "task 1: Killed" in job.log


def test_no_command(slurm, tmp_path):
    job = Job(slurm, tmp_path)
    job.until(JobState="FAILED")
    assert job.fields["ExitCode"] == "2:0"
    assert "no command" in job.log


def test_train_preempted_and_resumed(slurm, tmp_path):
    """The tiny recipe runs under its own command and is requeued in the middle.

    Every step must be there once.
    """
    steps = 100
    argv = tiny_runs.argv(
        "vae", tmp_path / "run", f"train.steps={steps}", "train.save_every=100000", *tiny_runs.ALONE
    )
    job = Job(
        slurm,
        tmp_path,
        *subprocesses.command("cv3jax", "train", *argv),
        tasks=TASKS,
        **subprocesses.environment(),
    )
    metrics = tmp_path / "run" / "metrics.jsonl"
    slurm.wait(lambda: metrics.exists() and len(read_lines(metrics)) > 5, 900)
    slurm.run("sbatch", "--partition=urgent", "--ntasks=2", "--wrap=sleep 1", cwd=tmp_path)
    job.until_queued_again()
    assert "preempted" in job.log
    saved = [int(path.name) for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert len(saved) == 1
    assert 5 < saved[0] < steps
    slurm.wait(lambda: job.fields["JobState"] == "COMPLETED", 900)
    assert [line["step"] for line in read_lines(metrics)] == list(range(1, steps + 1))
