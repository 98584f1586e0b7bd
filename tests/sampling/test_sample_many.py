"""Pictures of a whole file: what is wrong with it, who makes which, and that interruptions and
processes leave the same pictures.
"""

import hashlib
import json
import os
import signal
import weakref
from pathlib import Path

import golden_models
import jax
import numpy as np
import pytest
from PIL import Image

from cv3jax.cascade.sampler_settings import AS_DESCRIBED
from cv3jax.checkpoints.fingerprint import parts_fingerprint
from cv3jax.commands import sample
from cv3jax.distributed.independent import which_share
from cv3jax.distributed.mesh import choose_mesh
from cv3jax.sampling import jobs as sampling_jobs
from cv3jax.sampling import resumable
from cv3jax.sampling.batches import batch_width
from cv3jax.sampling.inputs import MAX_LINE, Prompt, read_prompts
from cv3jax.sampling.jobs import Job, Jobs
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError, StoppedError

pytestmark = pytest.mark.usefixtures("quick_compiles")

LINES = [f"a drawing of {i} things" for i in range(11)]


def test_a_text_file_has_a_prompt_a_line(tmp_path):
    data = "\ufeffein Fuß\r\na cat\u2028and a dog\n  two \n\n\n".encode()
    (tmp_path / "p.txt").write_bytes(data)
    prompts, found = read_prompts(tmp_path / "p.txt", 1)
    assert prompts == [Prompt("ein Fuß"), Prompt("a cat\u2028and a dog"), Prompt("  two ")]
    assert found == hashlib.sha256(data).hexdigest()


def test_a_jsonl_may_give_seeds_and_names(tmp_path):
    lines = [
        {"prompt": "a"},
        {"prompt": "b", "seed": 2**32 - 2},
        {"name": "x-1.b", "prompt": "c", "seed": None},
    ]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    prompts, _ = read_prompts(tmp_path / "p.jsonl", 2)
    assert prompts == [Prompt("a"), Prompt("b", 2**32 - 2), Prompt("c", None, "x-1.b")]
    jobs = Jobs(prompts, 2, 10)
    assert [(job.seed, job.file) for job in jobs] == [
        (10, "00000_a_10.png"),
        (11, "00001_a_11.png"),
        (2**32 - 2, "00002_b_4294967294.png"),
        (2**32 - 1, "00003_b_4294967295.png"),
        (14, "00004_x-1.b_14.png"),
        (15, "00005_x-1.b_15.png"),
    ]


def test_names_sort_by_number():
    names = [job.file for job in Jobs([Prompt("Ein Fuß / zwei"), Prompt("日本")], 60_000, 0)]
    assert names == sorted(names)
    assert (names[0], names[-1]) == ("000000_ein_fu_zwei_0.png", "119999_prompt_119999.png")


@pytest.mark.parametrize(
    ("data", "line"),
    [
        (b"", r"p\.(txt|jsonl) is empty"),
        (b"\n \n", "is empty"),
        (b"a\n\nb\n", "line 2 is blank"),
        (b"a\n\xff\n", "line 2 is not UTF-8"),
        (b"a\n" + b"b" * 5000, r"line 2: a prompt must hold 1\.\.4096 characters"),
        (b"a\n" + b"b" * (MAX_LINE + 1), "line 2 is longer than 65,536 bytes"),
    ],
)
def test_a_file_of_prompts_that_is_none(data, line, tmp_path):
    (tmp_path / "p.txt").write_bytes(data)
    with pytest.raises(InputError, match=line):
        read_prompts(tmp_path / "p.txt", 1)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("{", "line 2 is no JSON"),
        ("[" * 50_000, "line 2 is no JSON"),
        ('["b"]', "line 2 has a list; it takes"),
        ("{}", "line 2 has nothing; it takes"),
        ('{"prompt": "b", "sed": 1}', "line 2 has prompt, sed; it takes"),
        ('{"prompt": 1}', r"line 2: a prompt must hold"),
        ('{"prompt": " "}', r"line 2: a prompt must hold"),
        ('{"prompt": "\\ud800"}', "line 2: a prompt has a character that is none"),
        ('{"prompt": "b", "seed": -1}', r"line 2: seed -1: 0\.\.4294967294"),
        # its second picture's would be 2**32
        ('{"prompt": "b", "seed": 4294967295}', r"line 2: seed 4294967295: 0\.\.4294967294"),
        ('{"prompt": "b", "seed": true}', "line 2: seed True"),
        ('{"prompt": "b", "seed": 1.0}', r"line 2: seed 1\.0"),
        ('{"prompt": "b", "name": "../b"}', r"line 2: name '\.\./b': give letters"),
        ('{"prompt": "b", "name": 3}', "line 2: name '3'"),
    ],
)
def test_a_bad_line_has_its_number(text, line, tmp_path):
    (tmp_path / "p.jsonl").write_text('{"prompt": "a"}\n' + text)
    with pytest.raises(InputError, match=line):
        read_prompts(tmp_path / "p.jsonl", 2)


def test_too_many_lines_and_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr("cv3jax.sampling.inputs.MAX_LINES", 2)
    (tmp_path / "p.txt").write_text("a\nb\n")
    assert len(read_prompts(tmp_path / "p.txt", 1)[0]) == 2
    (tmp_path / "p.txt").write_text("a\nb\nc\n")
    with pytest.raises(InputError, match=r"p\.txt has more than 2 lines; split it"):
        read_prompts(tmp_path / "p.txt", 1)
    for path in (tmp_path, tmp_path / "none.txt"):
        with pytest.raises(InputError, match="is no file; give one with a prompt a line"):
            read_prompts(path, 1)


SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("flags", "environ", "share"),
    [
        ((None, None), {}, (0, 1)),
        ((1, 2), {"JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "9"}, (1, 2)),
        ((None, None), {"JAX_PROCESS_ID": "2", "JAX_NUM_PROCESSES": "3"}, (2, 3)),
        ((None, None), {**SLURM, "SLURM_STEP_NUM_TASKS": "4"}, (1, 4)),
        ((None, None), {**SLURM, "SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_NUM_NODES": "4"}, (1, 4)),
        ((None, None), SLURM, (0, 1)),  # a batch script itself, not started by srun
        (
            (None, None),
            {**SLURM, "SLURM_STEP_NUM_TASKS": "4", "JAX_PROCESS_ID": "0", "JAX_NUM_PROCESSES": "1"},
            (0, 1),
        ),
    ],
)
def test_which_share_is_ours(flags, environ, share, monkeypatch):
    for name in (
        "JAX_PROCESS_ID",
        "JAX_NUM_PROCESSES",
        "SLURM_PROCID",
        "SLURM_NTASKS",
        "SLURM_STEP_NUM_TASKS",
    ):
        monkeypatch.delenv(name, raising=False)
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    chosen: list[tuple] = []
    monkeypatch.setattr(jax.config, "update", lambda *given: chosen.append(given))
    assert which_share(*flags) == share
    shares_a_node = (
        "SLURM_STEP_NUM_TASKS" in environ
        and "JAX_PROCESS_ID" not in environ
        and environ["SLURM_STEP_NUM_NODES"] == "2"
    )
    assert chosen == ([("jax_cuda_visible_devices", "1")] if shares_a_node else [])


@pytest.mark.parametrize(
    ("flags", "environ", "line"),
    [
        (
            (2, 2),
            {},
            (
                "--process_id 2, --num_processes 2: give both, the first from 0 to one less than"
                " the second"
            ),
        ),
        ((0, None), {}, "--process_id 0, --num_processes None: give both"),
        ((-1, 2), {}, "--process_id -1"),
        (
            (None, None),
            {"JAX_PROCESS_ID": "one", "JAX_NUM_PROCESSES": "2"},
            "JAX_PROCESS_ID one, JAX_NUM_PROCESSES 2: give both",
        ),
        ((None, None), {"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID None"),
    ],
)
def test_parts_that_make_no_sense(flags, environ, line, monkeypatch):
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=line):
        which_share(*flags)


def test_a_mesh_is_as_large_as_there_are_pictures_for():
    assert choose_mesh(None, 1) is None
    assert dict(choose_mesh(None, 3).shape) == {"data": 3, "fsdp": 1, "tensor": 1, "context": 1}
    assert dict(choose_mesh(None, 100).shape)["data"] == 8
    assert dict(choose_mesh("fsdp=2,context=2", 1).shape) == {
        "data": 2,
        "fsdp": 2,
        "tensor": 1,
        "context": 2,
    }
    assert dict(choose_mesh("context=-1", 1).shape) == {
        "data": 1,
        "fsdp": 1,
        "tensor": 1,
        "context": 8,
    }
    two = choose_mesh("fsdp=2,context=4", 1)
    assert [
        batch_width(4, mesh, count)
        for mesh, count in ((None, 3), (None, 9), (two, 3), (two, 9), (two, 7))
    ] == [3, 4, 4, 8, 8]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("fsdp=3", r"--mesh fsdp=3: 8 devices do not divide over mesh"),
        ("data=2", r"--mesh data=2: mesh .* needs 2 devices, there are 8"),
        ("fsdp=-1,tensor=-1", "one of them .* may be -1"),
        ("fsdp=0", "axes must be positive"),
        *(
            (text, f"--mesh {text}: give sizes of the axes data, fsdp")
            for text in ("", "8", "model=8", "data=a", "data=8,data=8")
        ),
    ],
)
def test_a_mesh_that_is_none(text, line):
    with pytest.raises(InputError, match=line):
        choose_mesh(text, 100)


class Painter:
    """In place of a cascade: pictures in which every prompt and seed of their batch shows, and
    their place in it.
    """

    def __init__(self, stop=lambda batch: None):
        self.batches, self.stop = 0, stop

    def generate(self, prompts: list[str], seeds: list[int], **options) -> dict[str, np.ndarray]:
        self.batches += 1
        self.stop(self.batches)
        assert options == {
            "size": 32,
            "base": AS_DESCRIBED,
            "relay": AS_DESCRIBED,
            "images": None,
            "noise": None,
            "final": True,
        }
        key = hashlib.sha256(repr((prompts, seeds)).encode()).digest()
        return {
            "base": np.stack(
                [
                    np.random.default_rng([i, *key]).integers(0, 256, (32, 32, 3), np.uint8)
                    for i in range(len(seeds))
                ]
            )
        }


@pytest.fixture
def paint(tmp_path, monkeypatch, capsys):
    """paint(out, *flags, painter): run the command with a painter, on eleven prompts in batches of
    two; its figures.
    """
    (tmp_path / "p.txt").write_text("\n".join(LINES))
    saved = []
    save = sampling_jobs.save_png
    monkeypatch.setattr(
        sampling_jobs, "save_png", lambda path, *rest: saved.append(path.name) or save(path, *rest)
    )
    monkeypatch.setattr(resumable, "choose_mesh", lambda text, count: None)

    def run(out: str, *flags: str, painter: Painter | None = None, prompts: str = "p.txt") -> dict:
        monkeypatch.setattr(
            resumable, "load", lambda source, parts, mesh, attention: painter or Painter()
        )
        checkpoint = str(golden_models.converted("micro"))
        capsys.readouterr()
        saved.clear()
        sample.main(
            [
                "--checkpoint",
                checkpoint,
                "--prompts",
                str(tmp_path / prompts),
                "--out",
                str(tmp_path / out),
                "--size",
                "32",
                "--batch",
                "2",
                *flags,
            ]
        )
        return json.loads(capsys.readouterr().out)

    run.saved = saved
    return run


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def whole(paint, tmp_path) -> dict[str, bytes]:
    """The files of a run that nothing happened to."""
    figures = paint("whole", "--seed", "7")
    assert figures == {
        "pictures": 11,
        "part": [0, 1],
        "made": 11,
        "left": 0,
        "index": str(tmp_path / "whole" / "index.jsonl"),
    }
    return contents(tmp_path / "whole")


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
        size=32,
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
    """Nothing of the command catches it."""


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
    first = paint("two", "--seed", "7", "--process_id", "0", "--num_processes", "2")
    assert (first["part"], first["made"], first["index"]) == ([0, 2], 6, None)
    part = {path.name for path in (tmp_path / "two").glob("*.png")}
    assert not (tmp_path / "two" / "index.jsonl").exists()
    second = paint("two", "--seed", "7", "--process_id", "1", "--num_processes", "2")
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
            match="SIGINT: 7 of 11 pictures are left; run the same command to continue",
        ):
            paint("stopped", "--seed", "7", painter=painter)
    assert painter.batches == 2
    assert len(contents(tmp_path / "stopped")) == 5  # and the plan
    assert paint("stopped", "--seed", "7")["made"] == 7
    assert contents(tmp_path / "stopped") == whole


@pytest.mark.parametrize(
    ("flags", "prompts", "line"),
    [
        (
            ["--seed", "8"],
            "p.txt",
            (
                r"holds pictures of another plan \(other seed\); give its command, or another"
                r" directory"
            ),
        ),
        (
            ["--seed", "7", "--steps", "5"],
            "p.txt",
            "5 steps of the base stage: it is distilled to 4 and knows no others",
        ),
        (["--seed", "7", "--guidance", "3"], "p.txt", r"another plan \(other base\.guidance\)"),
        # it takes the relay too
        (
            ["--seed", "7", "--size", "64"],
            "p.txt",
            r"another plan \(other checkpoint, relay, size\)",
        ),
        (["--seed", "7"], "q.txt", r"another plan \(other prompts\.sha256\)"),
    ],
)
def test_another_plan_in_the_same_directory(flags, prompts, line, paint, whole, tmp_path):
    (tmp_path / "q.txt").write_text("\n".join([*LINES[:-1], "something else"]))
    with pytest.raises(InputError, match=line):
        paint("whole", *flags, prompts=prompts)
    assert contents(tmp_path / "whole") == whole


def test_settings_that_are_the_checkpoint_s_are_the_same_plan(paint, whole):
    assert (
        paint("whole", "--seed", "7", "--batch", "3", "--process_id", "1", "--num_processes", "2")[
            "made"
        ]
        == 0
    )


def test_directories_that_it_does_not_touch(paint, whole, tmp_path):
    out, name = tmp_path / "whole", min(whole)
    (out / "plan.json").write_text("{")
    with pytest.raises(InputError, match=r"plan\.json is damaged"):
        paint("whole", "--seed", "7")
    (out / "plan.json").unlink()
    with pytest.raises(InputError, match=f"has {name} but no plan.json that says what it is of"):
        paint("whole", "--seed", "7")
    with (
        locks.hold(tmp_path / "new" / ".part_0_of_1"),
        pytest.raises(InputError, match="is in use by process"),
    ):
        paint("new", "--seed", "7")
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError, match="11 pictures count up past 4294967295"):
        paint("new", "--seed", str(2**32 - 5))
    assert not (tmp_path / "new").exists()
    assert contents(out).keys() == whole.keys() - {"plan.json"}


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--prompt", "x"], "not allowed with argument --prompt"),
        (["--image", "x.png"], "--image goes with --prompt"),
        (["--noise", "x.npz"], "--noise goes with --prompt"),
        (["--batch", "0"], r"--batch 0: 1\.\.65536"),
    ],
)
def test_flags_that_do_not_go_together(flags, line, paint, tmp_path):
    with pytest.raises(InputError, match=line):
        paint("out", *flags)
    with pytest.raises(InputError, match="--process_id goes with --prompts"):
        sample.main(
            [
                "--checkpoint",
                "c",
                "--prompt",
                "x",
                "--out",
                str(tmp_path / "out"),
                "--process_id",
                "0",
                "--num_processes",
                "2",
            ]
        )
    assert not (tmp_path / "out").exists()


def test_a_changed_checkpoint_is_another_plan(tmp_path):
    for name in ("a", "b"):
        cascade_at = tmp_path / name / "t5"
        cascade_at.parent.mkdir()
        for entry in golden_models.converted("micro").iterdir():
            target = tmp_path / name / entry.name
            target.symlink_to(entry)
    parts = ("vae", "t5", "base")
    ours = parts_fingerprint(tmp_path / "a", parts)
    assert (
        ours
        == parts_fingerprint(tmp_path / "b", parts)
        != parts_fingerprint(tmp_path / "a", (*parts, "relay"))
    )
    (tmp_path / "b" / "base").unlink()
    (tmp_path / "b" / "base").mkdir()
    manifest = golden_models.converted("micro") / "base" / "manifest.json"
    (tmp_path / "b" / "base" / "manifest.json").write_text(
        manifest.read_text().replace("0", "1", 1)
    )
    assert parts_fingerprint(tmp_path / "b", parts) != ours


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
    assert (
        sampling_jobs.make(
            jobs, list(range(10)), 2, make, tmp_path, tmp_path / "place", lambda: None
        )
        == 10
    )
    assert len(alive) == 5
    assert list((tmp_path / "place").iterdir()) == []


def test_what_is_not_a_whole_picture(tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (8, 8)).save(path)
    data = path.read_bytes()
    assert sampling_jobs.is_whole(path, 8)
    assert not sampling_jobs.is_whole(path, 16)
    for wrong in (b"", data[:20], data[:-1], data + b"\0", b"\0" * len(data)):
        path.write_bytes(wrong)
        assert not sampling_jobs.is_whole(path, 8)
    assert not sampling_jobs.is_whole(tmp_path / "none.png", 8)
