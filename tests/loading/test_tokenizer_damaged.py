"""Test that a tokenizer of strangers is refused in one line, before it can cost time or memory."""

import base64
import dataclasses
import json
import time

import pytest

from data_pipeline.io.errors import InputError
from data_pipeline.loading.tokenizer import load_tokenizer, train_tokenizer
from data_pipeline.loading.tokenizer_checks import wrong_tokenizer

CAPTIONS = ["a large red circle", "a small blue square"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(CAPTIONS, folder, 100, 8)
    return folder


def replace(content: str, **pattern: str) -> dict:
    """Return a step that replaces a pattern."""
    return {"type": "Replace", "pattern": pattern, "content": content}


def charsmap(text: bytes) -> dict:
    """Return a step that maps characters to a text."""
    data = (4).to_bytes(4, "little") + b"\0" * 4 + text + b"\0"
    return {"type": "Precompiled", "precompiled_charsmap": base64.b64encode(data).decode()}


def sequence(*steps: dict) -> dict:
    return {"type": "Sequence", "normalizers": list(steps)}


WRONG = {
    "(a+)+$": (replace("b", Regex="(a+)+$"), "has the pattern '(a+)+$', and only a single"),
    "(a|aa)+$": (replace("b", Regex="(a|aa)+$"), "only a single repetition is allowed"),
    "a*a*a*b": (replace("b", Regex="a*a*a*b"), "only a single repetition is allowed"),
    "deep": (replace("b", Regex="(" * 9000), "only a single repetition is allowed"),
    "no text": (replace("b", Regex=["a"]), "only a single repetition is allowed"),
    "long": (replace("b" * 10**6, String="a"), "has a content of more than 4 characters"),
    "doubling": (sequence(*[replace("aa", String="a")] * 30), "replaces text 30 times"),
    "many": (sequence(*[{"type": "NFKC"}] * 50), "has more than 32 steps"),
    "in front": ({"type": "Prepend", "prepend": "a" * 5}, "has a prepend of more than 4"),
    "mapped": (charsmap(b"a" * 65), "maps a character to a long text"),
    "cut": ({"type": "Precompiled", "precompiled_charsmap": "//8="}, "damaged map of characters"),
    "no map": ({"type": "Precompiled", "precompiled_charsmap": "?"}, "that is not base64"),
}


def changed(folder, out, name: str, **fields):
    """Write a copy of a tokenizer's folder with other fields of one of its files. Returns it."""
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    value = json.loads((out / name).read_text())
    (out / name).write_text(json.dumps(value | fields))
    return out


@pytest.mark.parametrize("case", WRONG)
def test_a_costly_step_is_refused_before_it_is_run(case, folder, tmp_path):
    step, said = WRONG[case]
    began = time.process_time()
    for part in ("normalizer", "pre_tokenizer"):
        place = changed(folder, tmp_path, "tokenizer.json", **{part: step})
        with pytest.raises(InputError) as e:
            load_tokenizer(place)
        assert str(e.value).startswith(f"{place / 'tokenizer.json'}: its {part} ")
        assert said in str(e.value)
        assert len(str(e.value).splitlines()) == 1
    assert time.process_time() - began < 10


@pytest.mark.parametrize(
    ("name", "fields", "said"),
    [
        ("tokenizer_config.json", {"extra_ids": 10**9}, r"extra_ids must be 0\.\.10000"),
        ("tokenizer_config.json", {"extra_ids": "x"}, r"extra_ids must be 0\.\.10000"),
        ("tokenizer_config.json", {"added_tokens_decoder": [1]}, "added_tokens_decoder must be"),
        ("tokenizer_config.json", {"model_max_length": 10**50}, "more than 40 digits"),
        ("tokenizer.json", {"added_tokens": [{}] * 10_001}, "it adds 10,001 tokens"),
        ("tokenizer.json", {"normalizer": 1}, "is not a tokenizer that can be loaded"),
        ("tokenizer.json", {"model": {"type": "x"}}, "is not a tokenizer that can be loaded"),
    ],
)
def test_a_wrong_field_is_one_line(name, fields, said, folder, tmp_path):
    with pytest.raises(InputError, match=said) as e:
        load_tokenizer(changed(folder, tmp_path, name, **fields))
    assert len(str(e.value).splitlines()) == 1


def test_deep_and_huge_files_are_one_line(folder, tmp_path):
    place = changed(folder, tmp_path, "tokenizer.json")
    (place / "tokenizer.json").write_text('{"normalizer": ' + "[" * 100_000)
    with pytest.raises(InputError, match="is damaged: it is nested more than 100 deep"):
        load_tokenizer(place)
    with (place / "tokenizer.json").open("wb") as file:
        file.truncate(2**26 + 1)
    with pytest.raises(InputError, match="it has 67,108,865 bytes, and may have 67,108,864"):
        load_tokenizer(place)


def test_an_error_of_rust_code_on_a_prompt_is_one_line(folder, tmp_path):
    # the only repetition that is allowed can still exceed the library's limit of retries
    tokenize = load_tokenizer(changed(folder, tmp_path, "tokenizer.json"))

    class PanicError(BaseException):
        pass

    class Panics:
        def encode(self, *_):
            raise PanicError("retry-limit-in-match over\nmore")

        encode_batch = encode

    object.__setattr__(tokenize, "words", dataclasses.replace(tokenize.words, backend=Panics()))
    object.__setattr__(tokenize, "_as_text", lambda prompt: prompt)
    for call in (tokenize.count, lambda prompt: tokenize([prompt])):
        with pytest.raises(InputError, match=r"fails on a prompt.*: retry-limit-in-match over$"):
            call("a")


def test_the_steps_of_t5_are_allowed():
    t5 = sequence(charsmap(b"a" * 54), {"type": "Strip"}, replace("▁", Regex=" {2,}"))
    own = sequence({"type": "NFKC"}, {"type": "Lowercase"}, replace(" ", Regex=r"\s+"))
    for steps in (t5, own, replace("", Regex=r"[(|)+*]+"), replace("x", Regex=r"\(\|\)\+")):
        assert wrong_tokenizer({"normalizer": steps}) is None
