"""Test that headers of weights are bounded before a library parses them."""

import json
import struct
import time

import pytest

from data_pipeline.expansion import gguf_header
from data_pipeline.io import safetensors_header


def safetensors(header: bytes, length: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header


def tensors(count: int, **more: object) -> bytes:
    one = {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}
    return json.dumps({**{f"t{i}": one for i in range(count)}, **more}).encode()


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def gguf(*settings: bytes, tensors: int = 0, count: int | None = None, after: bytes = b"") -> bytes:
    number = len(settings) if count is None else count
    return b"GGUF" + struct.pack("<IQQ", 3, tensors, number) + b"".join(settings) + after


def words(count: int, kind: int = 8) -> bytes:
    """Return a setting with a list that claims `count` values and has three texts."""
    return text(b"tokens") + struct.pack("<IIQ", 9, kind, count) + text(b"a") * 3


TENSOR = text(b"w") + struct.pack("<IQQIQ", 2, 4, 4, 0, 0)
NUMBER = text(b"n") + struct.pack("<II", 4, 7)

RIGHT = [
    (safetensors_header, safetensors(tensors(2000, __metadata__={"format": "pt"}))),
    (gguf_header, gguf(NUMBER, words(3), NUMBER, tensors=2, after=TENSOR * 2)),
]
WRONG = [
    (safetensors_header, b"abc", "the header is missing"),
    (safetensors_header, safetensors(b"{}", 2**60), "more than the file"),
    (safetensors_header, safetensors(b"[]"), "does not begin with a header"),
    (safetensors_header, safetensors(b"{" + b" " * 2**24), "may have 16,777,216"),
    (safetensors_header, safetensors(tensors(10**5)), "more than 32,768 tensors"),
    (safetensors_header, safetensors(b'{"a":[' + b"1," * 2**20 + b"1]}"), "more than 524,288 val"),
    (gguf_header, bytes(100), "does not begin as GGUF"),
    (gguf_header, gguf(words(2**60)), "1,152,921,504,606,846,976 values in lists"),
    (gguf_header, gguf(words(10**6)), "longer than the file"),
    (gguf_header, gguf(*[words(3)] * 5000), "5,000 settings"),
    (gguf_header, gguf(words(3, kind=9)), "a list of values of the type 9"),
    (gguf_header, gguf(text(b"n") + struct.pack("<I", 77)), "type 77, which does not exist"),
    (gguf_header, gguf(count=2**62), "settings, and may have 4,096"),
    (gguf_header, gguf(tensors=2**62), "tensors, and may have 32,768"),
    (gguf_header, gguf(tensors=9), "longer than the file"),
    (gguf_header, gguf(tensors=1, after=text(b"w") + struct.pack("<I", 99)), "sides of a tensor"),
    (gguf_header, gguf(struct.pack("<Q", 2**63) + bytes(64)), "bytes in a text"),
]


@pytest.mark.parametrize(("module", "data"), RIGHT)
def test_headers_of_models_pass(module, data, tmp_path):
    (tmp_path / "file").write_bytes(data)
    module.check_header(tmp_path / "file")


@pytest.mark.parametrize(("module", "data", "line"), WRONG)
def test_a_header_that_would_cost_too_much_is_refused_at_once(module, data, line, tmp_path):
    (tmp_path / "file").write_bytes(data)
    began = time.thread_time()
    with pytest.raises(ValueError, match=line):
        module.check_header(tmp_path / "file")
    assert time.thread_time() - began < 1.0


@pytest.mark.parametrize("module", [safetensors_header, gguf_header])
def test_a_header_is_not_read_from_a_device(module):
    with pytest.raises(OSError, match="it is a device"):
        module.check_header("/dev/zero")
