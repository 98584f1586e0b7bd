"""Test that URLs and unexpanded names are refused by every flag and field that takes a path.

The system would take each of them for the name of a folder in the current directory.
"""

import itertools
import os
import types
from pathlib import Path

import pytest
from bad_input import refused

from data_pipeline.builder.settings import load_settings
from data_pipeline.io import storage
from data_pipeline.io.arguments import Parser, local
from data_pipeline.io.errors import InputError

TRAIN = "--config=scenes_base:tiny"
# command and arguments; {} is the path
PLACES = [
    ("train", TRAIN + " --workdir {}"),
    ("train", TRAIN + " --workdir w --json {}"),
    ("train", TRAIN + " --workdir w --config.data.path={}"),
    ("train", TRAIN + " --workdir w --config.data.path=a:3,{}:1"),
    ("train", TRAIN + " --workdir w --config.data.cache={}"),
    ("train", TRAIN + " --workdir w --config.cascade={}"),
    ("train", TRAIN + " --workdir w --config.init_from={}"),
    ("train", "--config=scenes_vae:tiny --workdir w --config.objective.perceptual={}"),
    ("train", "--config={} --workdir w"),
    ("distill", "--config=scenes_distill_base:tiny --workdir {}"),
    ("distill", "--config=scenes_distill_base:tiny --workdir w --config.cascade={}"),
    ("sample", "--checkpoint {} --prompt x --out w"),
    ("sample", "--checkpoint scenes --prompt x --out {}"),
    ("sample", "--checkpoint scenes --prompts {} --out w"),
    ("sample", "--checkpoint scenes --prompt x --out w --image {}"),
    ("sample", "--checkpoint scenes --prompt x --out w --noise {}"),
    ("convert", "--base {} --out w"),
    ("convert", "--t5 {} --out w"),
    ("convert", "--vae v --tokenizer {} --out w"),
    ("convert", "--vae v --config {} --out w"),
    ("convert", "--vae v --out {}"),
    ("convert", "--checkpoint {} --to sat --out w"),
    ("compile", TRAIN + " --topology v5e:1 --json {}"),
    ("quickstart", "--workdir {}"),
    ("data encode", TRAIN + " --input d --checkpoint c --out {}"),
    ("data encode", TRAIN + " --input {} --checkpoint c --out w"),
    ("data encode", TRAIN + " --input d --checkpoint {} --out w"),
    ("data", "pack --input {} --out w"),
    ("data", "pack --input s --out {}"),
    ("data", "scenes --num 1 --out {}"),
    ("data", "inspect --input {}"),
    ("data", "inspect --input d --out {}"),
    ("data", "inspect --input d --json {}"),
    ("data", "recaption --input {} --endpoint http://x/v1 --model m --out w"),
    ("data", "recaption --input d --endpoint http://x/v1 --model m --out {}"),
    ("data", "recaption --input d --endpoint http://x/v1 --model m --out w --dialogue {}"),
    ("data", "recaption --input d --endpoint http://x/v1 --model m --out w --triplets {}"),
    ("data", "build --input d --out w --captions {}"),
    ("data", "build --input d --out w --filters {}"),
    ("data", "build --input d --out w --blocked-sources {}"),
    ("data", "build --input {} --out w"),
    ("data", "build --input d --input {} --out w"),
    ("data", "build --input d --out {}"),
    ("data", "build --input d --out w --metadata {}"),
]
# of which Beam reaches none, whatever is installed
ELSEWHERE = ["abc://bucket/a", "https://a.b/c.tar", "file:///tmp/a", "gs:/bucket/a", "nfs://n/a"]


@pytest.mark.parametrize(("command", "line"), PLACES, ids=str)
def test_an_address_is_refused_in_one_line(command, line, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # as where no library of a store is installed
    monkeypatch.setattr(storage, "_systems", lambda: None)
    # s3:// and gs:// are taken by some of them
    argv = line.format("hdfs://bucket/a").split(" ")
    refused(command, argv, capsys, ": this must be a path on this machine")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("address", ELSEWHERE)
@pytest.mark.parametrize("flag", ["--input", "--out", "--metadata", "--blocked-sources"])
def test_a_build_refuses_what_no_store_has(flag, address, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    given = {"--input": "d", "--out": "w", flag: address}
    argv = ["build", *itertools.chain.from_iterable(given.items())]
    refused("data", argv, capsys, f"{flag} {address}: this must be a path on this machine")
    assert os.listdir(tmp_path) == []


def test_a_filter_file_refuses_an_address(tmp_path):
    (tmp_path / "f.yaml").write_text("blocked_sources: s3://bucket/a")
    with pytest.raises(InputError, match="must be a path on this machine"):
        load_settings(tmp_path / "f.yaml", {})


def test_a_store_that_beam_reaches_is_none_of_this_machine_s(monkeypatch):
    systems = types.SimpleNamespace(get_filesystem=lambda address: address)
    monkeypatch.setattr(storage, "_systems", lambda: systems)
    storage.check_address("gs://bucket/a", "--input")
    storage.check_address("hdfs://name:9000/a", "--out")
    storage.check_address("a/b.tar", "--input")
    with pytest.raises(InputError, match="must be a path on this machine"):
        storage.check_address("https://a.b/c.tar", "--input")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("s3://bucket/a", "must be a path on this machine"),
        ("S3A://bucket/a", "must be a path on this machine"),
        ("hdfs://name:9000/a", "must be a path on this machine"),
        ("https://a.b/c.png", "must be a path on this machine"),
        ("file:///tmp/a", "must be a path on this machine"),
        ("gs:/bucket/a", "must be a path on this machine"),  # as a Path has it
        ("me@host:/data/a", "must be a path on this machine"),
        ("me@host.example:a", "must be a path on this machine"),
        ("me@10.0.0.1:~/a", "must be a path on this machine"),
        ("~/runs", "did not replace ~"),
        ("~", "did not replace ~"),
        ("", "is empty"),
        (" ", "is empty"),
        (os.fsdecode(b"caf\xe9"), "is not valid UTF-8"),
    ],
)
def test_what_is_no_path_of_this_machine(text, said):
    with pytest.raises(InputError, match=said):
        local(text, "--out")
    parser = Parser(prog="cv3jax x")
    group = parser.add_argument_group("a").add_mutually_exclusive_group()
    group.add_argument("--out", type=Path)
    with pytest.raises(InputError, match=f"argument --out: .*{said}.*; see cv3jax x --help"):
        parser.parse_args([f"--out={text}"])


@pytest.mark.parametrize(
    "text",
    [
        "a",
        "/a/b",
        "./a:b",
        "a b",
        "a/gs://b",
        "runs/a:3",
        "~user/a",
        "a~",
        "c:d",
        "-",
        "a@b",
        "a@b:3",
        "a/b@c:d",
    ],
)
def test_other_names_are_paths(text):
    assert local(text) == Path(text)
