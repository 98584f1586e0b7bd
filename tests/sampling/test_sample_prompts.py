"""Test files of prompts, how they are split over processes, and the mesh for a batch size."""

import hashlib
import json

import jax
import pytest

from cv3jax.distributed.independent import which_share
from cv3jax.distributed.mesh import choose_mesh
from cv3jax.sampling.batches import batch_width
from cv3jax.sampling.inputs import MAX_LINE, Prompt, read_prompts
from cv3jax.sampling.jobs import Jobs
from data_pipeline.io.errors import InputError


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
        (b"a\n" + b"b" * 5000, r"line 2: a prompt has 5,000 characters; give at most 4,096"),
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
        ("{", "line 2 is not JSON"),
        ("[" * 50_000, "line 2 is not JSON"),
        ('["b"]', "line 2 has a value of type list; give"),
        ("{}", "line 2 has nothing; give"),
        ('{"prompt": "b", "sed": 1}', "line 2 has prompt, sed; give"),
        ('{"prompt": 1}', "line 2: a prompt must be a string, not int"),
        ('{"prompt": " "}', r"line 2: a prompt must hold"),
        ('{"prompt": "\\ud800"}', "line 2 is not JSON .it has half of a surrogate pair in it"),
        ('{"prompt": "b", "seed": -1}', r"line 2: seed -1: must be 0\.\.4294967294"),
        # its second picture's would be 2**32
        (
            '{"prompt": "b", "seed": 4294967295}',
            r"line 2: seed 4294967295: must be 0\.\.4294967294",
        ),
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
        with pytest.raises(InputError, match="is not a file; give one with a prompt per line"):
            read_prompts(path, 1)


SLURM = {
    "SLURM_PROCID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_LOCALID": "1",
}


@pytest.mark.parametrize(
    ("flags", "environ", "part"),
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
def test_which_part_is_ours(flags, environ, part, monkeypatch):
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
    assert which_share(*flags) == part
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
                "--process-id 2, --num-processes 2: give both; the first must be 0 or more, and"
                " less than the second"
            ),
        ),
        ((0, None), {}, "--process-id 0, --num-processes is not given: give both"),
        ((-1, 2), {}, "--process-id -1"),
        (
            (None, None),
            {"JAX_PROCESS_ID": "one", "JAX_NUM_PROCESSES": "2"},
            "JAX_PROCESS_ID one, JAX_NUM_PROCESSES 2: give both",
        ),
        ((None, None), {"JAX_NUM_PROCESSES": "2"}, "JAX_PROCESS_ID is not given"),
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
        ("fsdp=3", r"--mesh fsdp=3: 8 devices do not divide over the mesh"),
        ("data=2", r"--mesh data=2: the mesh .* needs 2 devices, but there are 8"),
        ("fsdp=-1,tensor=-1", "give positive sizes, of which one, or data and fsdp, may be -1"),
        ("fsdp=0", "is not possible; give positive sizes"),
        *(
            (text, f"--mesh {text}: give sizes for some of the axes data, fsdp")
            for text in ("", "8", "model=8", "data=a", "data=8,data=8")
        ),
    ],
)
def test_a_mesh_that_is_none(text, line):
    with pytest.raises(InputError, match=line):
        choose_mesh(text, 100)
