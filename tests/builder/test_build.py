"""Test `cv3jax data build` against planted faults.

The tests check what it finds and counts. They also check that the order of shards, kills and the
number of processes do not change the output.
"""

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image

from data_pipeline.cli import main
from data_pipeline.io.errors import InputError
from data_pipeline.records.records import open_records

ROOT = Path(__file__).parents[2]
COUNT, SHARD = 320, 64


@pytest.fixture(scope="module")
def benchmarks():
    """Make the scripts of benchmarks/ importable, which import each other by name."""
    sys.path.insert(0, str(ROOT / "benchmarks"))
    yield importlib.import_module("planted"), importlib.import_module("data_build")
    sys.path.remove(str(ROOT / "benchmarks"))


@pytest.fixture(scope="module")
def tars(benchmarks, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tars")
    return folder, benchmarks[0].generate(folder, COUNT, shard=SHARD, processes=1)


def flags(folder, out, *more):
    return [
        "build",
        "--input",
        f"{folder}/*.tar",
        "--out",
        str(out),
        "--blocked-sources",
        f"{folder}/blocked.txt",
        "--max-bytes",
        "1000000",
        "--shard-mb",
        "8",
        *more,
    ]


@pytest.fixture(scope="module")
def built(tars, tmp_path_factory):
    out = tmp_path_factory.mktemp("built") / "D"
    main(flags(tars[0], out))
    return out


def test_what_was_planted_is_found(tars, built, benchmarks):
    figures = benchmarks[1].found(built, tars[1])
    assert {kind: figures[kind] for kind in benchmarks[1].BARS} == dict.fromkeys(
        benchmarks[1].BARS, 1.0
    )
    assert figures["good lost"] == 0
    assert figures["reasons right"]
    assert figures["adds up"]
    assert figures["broken files"] == ["00004.tar"]
    assert not built.with_name("D.build").exists()


def test_of_duplicates_the_largest_stays(tars, built):
    records = open_records(built)
    kept = {r["key"]: r["width"] * r["height"] for r in records}
    report = json.loads((built / "report.json").read_text())
    assert report["dropped"]["exact_duplicate"] == round(0.05 * COUNT)
    assert report["dropped"]["near_duplicate"] == round(0.05 * COUNT)
    copies = {f"{index:09d}" for pair in tars[1].repeats.items() for index in pair}
    sizes = {}
    for path in sorted(tars[0].glob("*.tar")):
        with tarfile.open(path) as tar, contextlib.suppress(tarfile.ReadError):  # one is cut
            for member in tar:
                if (key := member.name.partition(".")[0]) in copies and not member.name.endswith(
                    (".txt", ".json")
                ):
                    with Image.open(tar.extractfile(member)) as image:
                        sizes[key] = image.width * image.height
    for copy, first in tars[1].repeats.items():
        here = [key for key in (f"{copy:09d}", f"{first:09d}") if key in kept]
        assert len(here) == 1
        assert kept[here[0]] == max(sizes[f"{copy:09d}"], sizes[f"{first:09d}"])


def test_records_hold_what_the_tars_held(tars, built):
    records = open_records(built)
    with tarfile.open(tars[0] / "00001.tar") as tar:
        members = {member.name: tar.extractfile(member).read() for member in tar}
    found = 0
    for record in records:
        stem = record["key"]
        if f"{stem}.txt" in members:
            found += 1
            assert record["image"] in (
                members.get(f"{stem}.{suffix}") for suffix in ("jpg", "png", "webp")
            )
            assert record["caption"] == members[f"{stem}.txt"].decode()
            fields = json.loads(members[f"{stem}.json"])
            assert record["url"] == fields["url"]
            assert json.loads(record["scores"]) == {
                "NSFW": "UNLIKELY",
                "punsafe": fields["punsafe"],
            }
            assert record["recaption"] == ""
    assert found > SHARD / 2


def test_tfds_reads_it_without_tensorflow(built):
    program = f"""
import json, sys
import tensorflow_datasets as tfds
source = tfds.builder_from_directory({str(built)!r}).as_data_source(split="train")
print(json.dumps([len(source), sorted(source[0]), "tensorflow" in sys.modules]))
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout
    count, fields, tensorflow = json.loads(out)
    records = open_records(built)
    assert (count, fields, tensorflow) == (len(records), sorted(records[0]), False)


def test_the_order_of_shards_changes_nothing(tars, built, tmp_path):
    """The tars have other names, so they are read in another order.

    In one of two cases some records have copies under other keys.
    """
    names = sorted(path.name for path in tars[0].glob("*.tar"))
    for name, other in zip(names, [*names[2:], *names[:2]], strict=True):
        os.link(tars[0] / name, tmp_path / other)
    (tmp_path / "blocked.txt").write_text((tars[0] / "blocked.txt").read_text())
    main(flags(tmp_path, tmp_path / "D"))
    ours, theirs = (
        {r["key"]: r["sha256"] for r in open_records(out)} for out in (built, tmp_path / "D")
    )
    assert ours == theirs


def test_killed_and_started_again_it_ends_with_the_same_bytes(
    tars, built, benchmarks, tmp_path, monkeypatch
):
    out, digest = tmp_path / "D", benchmarks[1].digest
    work = out.with_name("D.build")
    command = [sys.executable, "-m", "data_pipeline.cli", *flags(tars[0], out)]
    # in the middle of the first and of the last pass
    for there in ("scan/000001.gz", "shards/*.json"):
        process = subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
        while process.poll() is None and not any(work.glob(there)):
            time.sleep(0.001)
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not out.exists()
    from data_pipeline.builder import build

    monkeypatch.setattr(build, "Scan", None)  # that pass was done
    main(flags(tars[0], out))
    assert digest(out) == digest(built)
    assert not work.exists()


def test_other_filters_use_the_same_scan_and_the_same_command_does_nothing(
    tars, built, benchmarks, tmp_path, monkeypatch
):
    out, digest = tmp_path / "D", benchmarks[1].digest
    with pytest.raises(
        InputError,
        match=r"no image is left; left out: .* × min_side, .*; loosen the filters and run",
    ):
        main(flags(tars[0], out, "--min-side", "5000"))
    from data_pipeline.builder import build

    monkeypatch.setattr(build, "Scan", None)  # no pass over the images any more
    main(flags(tars[0], out))
    assert digest(out) == digest(built)
    monkeypatch.setattr(build, "run", None)
    main(flags(tars[0], out))
    assert digest(out) == digest(built)
    with pytest.raises(InputError, match="already holds records; give --overwrite"):
        main(flags(tars[0], out, "--min-side", "8"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_killed_while_it_cleans_up(overwrite, tars, built, benchmarks, tmp_path, monkeypatch):
    """The dataset exists, and a part of the temporary files too.

    The same command then succeeds, and a command that replaces the dataset does too.
    """
    from data_pipeline.builder import build
    from data_pipeline.builder.workspace import Work

    out, clear = tmp_path / "D", Work.clear

    def killed(work, *parts):
        if (done := sorted(Path(work.folder).glob("decide/*.json"))) and out.exists():
            clear(work, "scan")  # and the files that say what is whole
            done[0].unlink()
            raise SystemExit("killed")
        clear(work, *parts)

    with monkeypatch.context() as patch:
        patch.setattr(Work, "clear", killed)
        with pytest.raises(SystemExit, match="killed"):
            main(flags(tars[0], out))
    assert out.exists()
    if not overwrite:
        monkeypatch.setattr(build, "run", None)
    main(flags(tars[0], out, *(["--overwrite"] if overwrite else [])))
    assert benchmarks[1].digest(out) == benchmarks[1].digest(built)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["D"]


def test_too_much_that_is_bad_ends_the_build(tars, tmp_path):
    with pytest.raises(
        InputError,
        match=r"damaged or undecodable items: \d of 2\d\d .* --max-bad-fraction 0.01 allows",
    ):
        main(flags(tars[0], tmp_path / "D", "--max-bad-fraction", "0.01"))
    assert not (tmp_path / "D").exists()


def test_two_builds_of_one_output_do_not_meet(tars, tmp_path):
    import fcntl

    (tmp_path / "D.build").mkdir()
    with (tmp_path / "D.build" / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(InputError, match="belongs to a running build"):
            main(flags(tars[0], tmp_path / "D"))


def test_a_worker_ends_when_the_build_is_killed():
    program = """
import os, subprocess, sys, time
watched = f"from data_pipeline.builder.beam_worker import watch; watch({os.getpid()})"
child = subprocess.Popen([sys.executable, "-c", watched])
print(child.pid, flush=True)
time.sleep(600)
"""
    build = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    child = int(build.stdout.readline())
    assert Path(f"/proc/{child}").exists()
    build.kill()
    build.wait()
    for _ in range(600):
        if (
            not Path(f"/proc/{child}").exists()
            or Path(f"/proc/{child}/stat").read_text().split()[2] == "Z"
        ):
            return
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    raise AssertionError("it lives on")


@pytest.mark.slow
def test_two_processes_give_the_same_bytes(tars, built, benchmarks, tmp_path):
    main(flags(tars[0], tmp_path / "D", *benchmarks[1].TWO))
    assert benchmarks[1].digest(tmp_path / "D") == benchmarks[1].digest(built)
