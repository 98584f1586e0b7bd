"""Test sampling of a whole file: its outputs, and equal pictures after stops and by processes."""

import json
import os
import signal
import weakref

import numpy as np
import pytest
from painter import LINES, Painter, contents
from PIL import Image

from cv3jax.cascade.sampler_settings import AS_DESCRIBED
from cv3jax.cascade.sizes import Size
from cv3jax.sampling import jobs as sampling_jobs
from cv3jax.sampling.inputs import Prompt
from cv3jax.sampling.jobs import Job, Jobs
from data_pipeline.io import progress
from data_pipeline.io.errors import StoppedError


def test_what_a_run_leaves(paint, whole, tmp_path):
    names = [f"{i:05d}_a_drawing_of_{i}_things_{7 + i}.png" for i in range(11)]
    assert whole.keys() == {*names, "plan.json", "index.jsonl"}
    index = [json.loads(line) for line in whole["index.jsonl"].decode().splitlines()]
    assert index == [
        {"file": name, "prompt": prompt, "seed": 7 + i}
        for i, (name, prompt) in enumerate(zip(names, LINES, strict=True))
    ]
    painted = Painter().generate(
        LINES[4:6],
        [11, 12],
        size=Size(32, 32),
        base=AS_DESCRIBED,
        relay=AS_DESCRIBED,
        images=None,
        noise=None,
        final=True,
    )["base"]
    for name, image in zip(names[4:6], painted, strict=True):
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "whole" / name)), image)
    painter = Painter()
    assert paint("whole", "--seed", "7", painter=painter)["made"] == 0
    assert painter.batches == 0
    assert contents(tmp_path / "whole") == whole


class KilledError(Exception):
    """End a command with an error that nothing of it catches."""


def test_killed_and_run_again_it_is_the_run_that_was_never_stopped(paint, whole, tmp_path):
    out = tmp_path / "killed"

    def die(batch: int) -> None:
        if batch == 4:
            raise KilledError

    with pytest.raises(KilledError):
        paint("killed", "--seed", "7", painter=Painter(die))
    names = sorted(name for name in whole if name.endswith(".png"))
    assert {path.name for path in out.iterdir()} == {"plan.json", *names[:6]}
    (out / names[1]).unlink()  # in the middle of a batch
    (out / names[4]).write_bytes(whole[names[4]][:-20])  # a copy that was cut off
    (out / ".part_0_of_1").mkdir()
    (out / ".part_0_of_1" / names[7]).write_bytes(b"half")  # as a kill leaves it
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.png")}
    painter = Painter()
    assert paint("killed", "--seed", "7", painter=painter)["made"] == 7
    assert sorted(paint.saved) == sorted([names[1], names[4], *names[6:]])
    # the first with names[1], the third with names[4], and three that had not been begun
    assert painter.batches == 5
    assert contents(out) == whole
    assert {path.name for path in out.iterdir()} == set(whole)
    assert all(
        path.stat().st_mtime_ns == stamp
        for path, stamp in before.items()
        if path.name not in (names[1], names[4])
    )


def test_two_processes_make_the_whole_between_them(paint, whole, tmp_path):
    first = paint("two", "--seed", "7", "--process-id", "0", "--num-processes", "2")
    assert (first["part"], first["made"], first["index"]) == ([0, 2], 6, None)
    part = {path.name for path in (tmp_path / "two").glob("*.png")}
    assert not (tmp_path / "two" / "index.jsonl").exists()
    second = paint("two", "--seed", "7", "--process-id", "1", "--num-processes", "2")
    assert second["made"] == 5
    assert part.isdisjoint(paint.saved)
    assert contents(tmp_path / "two") == whole


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_after_the_batch(number, paint, whole, tmp_path):
    painter = Painter(lambda batch: os.kill(os.getpid(), number) if batch == 2 else None)
    if number == signal.SIGTERM:
        figures = paint("stopped", "--seed", "7", painter=painter)
        assert (figures["made"], figures["left"], figures["index"]) == (4, 7, None)
    else:
        with pytest.raises(
            StoppedError,
            match="SIGINT: pictures left: 7 of 11; run the same command to resume",
        ):
            paint("stopped", "--seed", "7", painter=painter)
    assert painter.batches == 2
    assert len(contents(tmp_path / "stopped")) == 5  # and the plan
    assert paint("stopped", "--seed", "7")["made"] == 7
    assert contents(tmp_path / "stopped") == whole


def test_two_batches_are_in_memory_and_no_more(tmp_path):
    alive: list[weakref.ref] = []

    def make(some: list[Job]) -> np.ndarray:
        assert sum(ref() is not None for ref in alive) <= 1, (
            "the batch before is being written, all others are gone"
        )
        images = np.full((len(some), 8, 8, 3), len(alive), np.uint8)
        alive.append(weakref.ref(images))
        return images

    jobs = Jobs([Prompt("x")] * 10, 1, 0)
    (tmp_path / "place").mkdir()
    bar = progress.bar(10, "sample", "picture")
    assert (
        sampling_jobs.make(
            jobs,
            list(range(10)),
            2,
            make,
            sampling_jobs.Target(tmp_path, tmp_path / "place"),
            lambda: None,
            bar,
        )
        == 10
    )
    assert bar.n == 10
    assert len(alive) == 5
    assert list((tmp_path / "place").iterdir()) == []


def test_what_is_not_a_whole_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    data = path.read_bytes()
    assert sampling_jobs.is_whole(path, Size(8, 8))
    assert not sampling_jobs.is_whole(path, Size(16, 16))
    for wrong in (b"", data[:20], data[:-1], data + b"\0", b"\0" * len(data)):
        path.write_bytes(wrong)
        assert not sampling_jobs.is_whole(path, Size(8, 8))
    assert not sampling_jobs.is_whole(tmp_path / "none.png", Size(8, 8))
