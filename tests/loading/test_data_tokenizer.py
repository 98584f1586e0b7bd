"""Test the trained tokenizer: a reproducible file, T5's numbering of ids, and odd prompts."""

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data_pipeline.io.errors import InputError
from data_pipeline.loading.tokenizer import load_tokenizer, train_tokenizer
from data_pipeline.scenes.grammar import caption, sample_scene, vocabulary

LENGTH = 40


def captions():
    return [caption(sample_scene(0, i)) for i in range(400)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(captions(), out, 512, LENGTH)
    return out


@pytest.fixture(scope="module")
def tokenize(folder):
    return load_tokenizer(folder, LENGTH)


def digest(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in Path(folder).iterdir()}


def test_the_same_captions_give_the_same_file_in_every_process(folder, tmp_path):
    program = """
import sys
sys.path.insert(0, sys.argv[1])
from test_data_tokenizer import captions
from data_pipeline.loading.tokenizer import train_tokenizer
train_tokenizer(reversed(captions()), sys.argv[2], 512, 40)
"""
    environment = {**os.environ, "PYTHONHASHSEED": "12345", "RAYON_NUM_THREADS": "1"}
    command = [sys.executable, "-c", program, os.path.dirname(__file__), str(tmp_path / "t")]
    subprocess.run(command, check=True, env=environment, cwd=os.getcwd())
    assert digest(tmp_path / "t") == digest(folder)


def test_ids_are_those_of_t5(folder, tokenize):
    ids = tokenize(["", "red", "a large red circle in the center, white background"])
    assert (ids.shape, ids.dtype) == ((3, LENGTH), np.int32)
    assert list(ids[0]) == [1] + [0] * (LENGTH - 1)
    assert ids[1][1] == 1  # a word of the captions is one token
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)
    assert (
        tokenizer.decode(ids[2], skip_special_tokens=True).replace(" ,", ",")
        == "a large red circle in the center, white background"
    )
    assert ids.max() < len(tokenizer) <= 512


def test_every_word_of_the_captions_is_one_token(tokenize):
    ids = tokenize([f"a {word}" for word in vocabulary()])
    assert (ids[:, 2] == 1).all()
    assert len(set(ids[:, 1])) == len(vocabulary())


def test_case_width_and_blanks_do_not_matter(tokenize):
    a, b = tokenize(["a large red circle", "  A  LARGE\t\uff52\uff45\uff44\n\ncircle "])
    assert list(a) == list(b)


def test_truncation_keeps_the_end(tokenize):
    long, short = tokenize(["red " * 500, "red red"])
    assert long[-1] == 1
    assert (long[:-1] == long[0]).all()
    assert list(long[:2]) == list(short[:2])


@given(prompts=st.lists(st.text(max_size=60), min_size=1, max_size=4))
@settings(max_examples=100, deadline=None)
def test_any_prompt_tokenizes(tokenize, prompts):
    ids = tokenize(prompts)
    assert ids.shape == (len(prompts), LENGTH)
    for row in ids:
        end = list(row).index(1)
        assert (row[end + 1 :] == 0).all()


def test_unknown_characters_become_unk_and_odd_strings_pass(tokenize):
    ids = tokenize(["猫", "red \U0001f600", "\x00", "\udcff", "a" * 10**6])
    assert 2 in ids[0]
    assert 2 in ids[1]
    assert all(1 in row for row in ids)


def test_bad_folders(tmp_path, folder):
    with pytest.raises(InputError, match="no such directory"):
        load_tokenizer(tmp_path / "none")
    with pytest.raises(InputError, match=r"neither tokenizer\.json nor spiece\.model"):
        load_tokenizer(tmp_path)
    for name, content, message in (
        ("tokenizer.json", b"{", r"tokenizer\.json is damaged"),
        ("tokenizer.json", b"{}", "not a tokenizer that can be loaded"),
        ("tokenizer_config.json", b"[]", "not a JSON object"),
        ("tokenizer_config.json", b"\xff", "no readable"),
        ("tokenizer_config.json", b'{"tokenizer_class": "TokenizersBackend"}', "lacks a padding"),
    ):
        bad = tmp_path / "bad"
        shutil.copytree(folder, bad)
        (bad / name).write_bytes(content)
        with pytest.raises(InputError, match=message):
            load_tokenizer(bad, 8)
        shutil.rmtree(bad)
    with pytest.raises(InputError, match="max_length = 1"):
        load_tokenizer(folder, 1)
    (tmp_path / "spiece.model").write_bytes(b"\x0a\x00damaged")
    (tmp_path / "tokenizer_config.json").write_text(
        '{"tokenizer_class": "T5Tokenizer", "pad_token": "<pad>", "eos_token": "</s>"}'
    )
    with pytest.raises(InputError, match="not a tokenizer"):
        load_tokenizer(tmp_path, 8)


def test_training_refuses(tmp_path):
    with pytest.raises(InputError, match="no captions"):
        train_tokenizer(["", "  "], tmp_path / "t", 100, 8)
    with pytest.raises(InputError, match="vocab_size = 5"):
        train_tokenizer(["abcdefghij"], tmp_path / "t", 5, 8)
    with pytest.raises(InputError, match="max_length"):
        train_tokenizer(["a"], tmp_path / "t", 100, 1)
    assert not (tmp_path / "t").exists()
