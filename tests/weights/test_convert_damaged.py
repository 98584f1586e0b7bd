"""Test that `cv3jax convert` refuses files that are damaged, inconsistent or contain code.

Each is refused in one line. Nothing is written, and no code of the file runs.
"""

import argparse
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections import OrderedDict
from pathlib import Path

import golden_models
import numpy as np
import pytest
import subprocesses
from released_files import (
    FLAGS,
    converted,
    prefixed,
    refused,
    same_bits,
    small,
    stored,
    tensors,
    write,
    write_sat,
)

from cv3jax.weights.files import SAT_FILE

# of NumPy's global generator, as trainers keep it
RANDOM_STATE = ("MT19937", np.arange(624, dtype=np.uint32), 624, 0, 0.0)


class Bomb:
    """Make a file if it is unpickled without restrictions."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_a_pt_that_carries_code_is_refused_and_does_not_run(tmp_path):
    """A file of the same layout without code is accepted.

    Unpickled without restrictions, the code would have run.
    """
    torch = pytest.importorskip("torch")
    values = prefixed(tensors("unet.safetensors"))
    beside = {"iteration": 7, "args": argparse.Namespace(lr=1e-4), "np_rng_state": RANDOM_STATE}
    benign = write_sat(tmp_path / "benign", values, **beside)
    bomb = write_sat(tmp_path / "bomb", values, **beside, hook=Bomb(tmp_path / "ran"))
    line = (
        r"bomb/1/mp_rank_00_model_states\.pt is refused, and nothing of it was run: it calls"
        r" (posix|os)\.mkdir, and a checkpoint may hold"
    )
    refused(tmp_path, line, "--unet", bomb, *FLAGS)
    refused(tmp_path, line, "--unet", bomb / "1" / SAT_FILE, *FLAGS)
    out = converted(tmp_path / "out", "--unet", benign, *FLAGS)
    assert same_bits(stored(out, "base"), stored(golden_models.converted("micro"), "base"))
    assert not (tmp_path / "ran").exists()
    torch.load(bomb / "1" / SAT_FILE, weights_only=False)
    assert (tmp_path / "ran").is_dir()


def test_without_pytorch_a_pt_gets_a_line_that_names_the_set_up(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "u.pt", "w") as file:
        file.writestr("archive/data.pkl", pickle.dumps({}))
    monkeypatch.setitem(sys.modules, "torch", None)  # which importing it then finds, and raises
    advice = r"needs torch, which is not installed: pip install 'cv3jax\[torch\]'"
    refused(tmp_path, rf"reading .*u\.pt {advice}", "--unet", tmp_path / "u.pt", *FLAGS)
    refused(
        tmp_path,
        rf"writing a SAT checkpoint {advice}",
        "--checkpoint",
        golden_models.converted("micro"),
        "--to",
        "sat",
    )


class Views:
    """Make an array of objects whose addresses are bytes of the file.

    Unpickled with NumPy's own classes, reading them ends the process.
    """

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), b"A" * 8)


def test_arrays_beside_the_tensors_are_not_made(tmp_path):
    """The command runs in a subprocess, because it might end the test's process."""
    pytest.importorskip("torch")
    sat = write_sat(
        tmp_path / "sat",
        prefixed(tensors("unet.safetensors")),
        hook=OrderedDict(a=Views()),
        rng=RANDOM_STATE,
    )
    program = (
        "import sys, pathlib; from cv3jax.weights.torch_file import open_torch;"
        " print(len(open_torch(pathlib.Path(sys.argv[1]))))"
    )
    argv = [sys.executable, "-c", program, str(sat / "1" / SAT_FILE)]
    done = subprocess.run(
        argv, env=subprocesses.environment(), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "329\n"), done.stderr


def damage_pt(kind: str, at: Path) -> Path:
    """Write a .pt or SAT folder with a fault."""
    torch = pytest.importorskip("torch")
    folder = write_sat(at / "sat", small())
    file = folder / "1" / SAT_FILE
    if kind == "truncated":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif kind == "no latest":
        (folder / "latest").unlink()
    elif kind == "latest elsewhere":
        (folder / "latest").write_text("../../etc")
    elif kind == "latest of nothing":
        (folder / "latest").write_text("2")
    elif kind == "two ranks":
        shutil.copy(file, file.with_name("mp_rank_01_model_states.pt"))
    elif kind == "compressed":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("archive/data.pkl", b"0" * 1000)
    elif kind == "large pickle":
        with (
            zipfile.ZipFile(file, "w") as archive,
            archive.open("archive/data.pkl", "w", force_zip64=True) as member,
        ):
            for _ in range(129):
                member.write(bytes(2**20))
    elif kind == "other things":
        torch.save({"module": {"a": torch.zeros(2), "b": {"c": torch.zeros(2)}}}, file)
    elif kind == "sparse":
        torch.save({"module": {"a": torch.zeros(2, 2).to_sparse_csr()}}, file)
    elif kind == "zip of another version":
        data = bytearray(file.read_bytes())
        data[data.index(b"PK\1\2") + 6] = 99
        file.write_bytes(data)
    elif kind == "no values":
        torch.save({"module": {"a": torch.zeros(0, 10**6)}}, file)
    elif kind == "no tensors":
        torch.save({"module": {"a": 1}}, file)
    elif kind == "old format":
        torch.save({"module": {}}, file, _use_new_zipfile_serialization=False)
    elif kind == "shape without bytes":
        torch.save({"module": {"a": torch.zeros(1).expand(10**6, 10**6)}}, file)
    elif kind == "integers":
        torch.save({"module": {"model.diffusion_model.a": torch.zeros(2, dtype=torch.int64)}}, file)
    return folder


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        (
            "truncated",
            (
                r"mp_rank_00_model_states\.pt is damaged or was not written by torch\.save of"
                r" PyTorch 1\.6 or newer: .*; get it again"
            ),
        ),
        ("old format", r"is damaged or was not written by torch\.save of PyTorch 1\.6 or newer"),
        (
            "no latest",
            (
                r"--unet .*sat has no `latest`, the file that says which of its steps to take; give"
                r" .*sat/1/mp_rank_00_model_states\.pt"
            ),
        ),
        (
            "latest elsewhere",
            r"latest holds '\.\./\.\./etc', which is not the name of a folder; it must",
        ),
        ("latest of nothing", r"latest says 2, but there is no .*2/mp_rank_00_model_states\.pt"),
        (
            "two ranks",
            r"is split over 2 model-parallel ranks \(mp_rank_01_model_states\.pt\); merge them",
        ),
        ("compressed", r"was not written by torch\.save: archive/data\.pkl in it is compressed"),
        (
            "large pickle",
            r"archive/data\.pkl has 135,266,304 bytes, more than names and shapes take",
        ),
        (
            "no tensors",
            r"holds no tensors, neither under `module`, as a SAT checkpoint does, nor at its top",
        ),
        (
            "other things",
            (
                r"sat/1/mp_rank_00_model_states\.pt: b is of another type; weights are one of"
                r" float16, bfloat16, float32 \(1 in all\)"
            ),
        ),
        ("sparse", r"mp_rank_00_model_states\.pt: a is of another type; weights are one of"),
        ("zip of another version", r"is damaged or was not written by torch\.save of PyTorch"),
        ("no values", r"a has the shape \[0, 1000000\] and no values \(1 in all\)"),
        (
            "shape without bytes",
            r": a has the shape \[1000000, 1000000\], for which the file holds too few bytes",
        ),
        ("integers", r"a is int64; weights are one of float16, bfloat16, float32 \(1 in all\)"),
    ],
)
def test_damaged_checkpoints_of_pytorch(kind, line, tmp_path):
    refused(tmp_path, line, "--unet", damage_pt(kind, tmp_path), *FLAGS)


def lying(path: Path, **changes) -> Path:
    """Write a safetensors file whose header does not match its content."""
    data = write(path, small()).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")
    header[first] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return path


@pytest.mark.parametrize("kind", ["shape", "offsets", "length", "truncated", "empty", "text"])
def test_a_safetensors_header_with_wrong_sizes(kind, tmp_path):
    path = tmp_path / "u.safetensors"
    if kind == "shape":
        lying(path, shape=[10**6, 10**6])
    elif kind == "offsets":
        lying(path, data_offsets=[0, 2**40])
    else:
        data = write(path, small()).read_bytes()
        path.write_bytes(
            {
                "length": struct.pack("<Q", 2**60) + data[8:],
                "truncated": data[:-100],
                "empty": b"",
                "text": b"weights",
            }[kind]
        )
    refused(
        tmp_path,
        r"u\.safetensors is damaged or not a safetensors file: .*; get it again",
        "--unet",
        path,
        *FLAGS,
    )


def test_a_pt_of_tensors_alone_is_read(tmp_path):
    """torch.save(model.state_dict()) writes a file without `module`."""
    torch = pytest.importorskip("torch")
    torch.save(
        {name: torch.from_numpy(value) for name, value in tensors("vae.safetensors").items()},
        tmp_path / "v.ckpt",
    )
    out = converted(tmp_path / "out", "--vae", tmp_path / "v.ckpt")
    assert same_bits(stored(out, "vae"), stored(golden_models.converted("micro"), "vae"))
