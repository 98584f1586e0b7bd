"""Files that `cv3jax convert` refuses: one line each, nothing written, and no code of theirs
run.
"""

import argparse
import gc
import json
import os
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
import tiny_runs
from released_files import FLAGS, converted, prefixed, same_bits, stored, tensors, write, write_sat
from small_disks import small_disk
from test_convert import write_official

from cv3jax.weights.files import SAT_FILE
from data_pipeline.io.errors import InputError

# of NumPy's global generator, as trainers keep it
RANDOM_STATE = ("MT19937", np.arange(624, dtype=np.uint32), 624, 0, 0.0)


class Bomb:
    """Unpickled freely, it makes a file."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def small() -> dict[str, np.ndarray]:
    """A few tensors: what is wrong with their file is found before they are looked at."""
    return dict(list(tensors("unet.safetensors").items())[:4])


def refused(tmp_path: Path, line: str, *argv: str | Path) -> None:
    """The command ends with an InputError of one line, and leaves nothing."""
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match=line) as caught:
        converted(tmp_path / "out", *argv)
    assert "\n" not in str(caught.value)
    assert sorted(tmp_path.iterdir()) == before


def test_a_pt_that_carries_code_is_refused_and_does_not_run(tmp_path):
    """A file of the same layout without the code is accepted; unpickled freely, the other would
    have run.
    """
    torch = pytest.importorskip("torch")
    values = prefixed(tensors("unet.safetensors"))
    beside = {"iteration": 7, "args": argparse.Namespace(lr=1e-4), "np_rng_state": RANDOM_STATE}
    benign = write_sat(tmp_path / "benign", values, **beside)
    bomb = write_sat(tmp_path / "bomb", values, **beside, hook=Bomb(tmp_path / "ran"))
    line = (
        r"bomb/1/mp_rank_00_model_states\.pt is refused, and nothing of it was run: it calls"
        r" (posix|os)\.mkdir; a checkpoint holds"
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
        file.writestr("archive/data.pkl", b"")
    monkeypatch.setitem(sys.modules, "torch", None)  # which importing it then finds, and raises
    advice = r"takes PyTorch, which is not installed; `make setup-torch`"
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
    """Unpickled with NumPy's own classes, an array of objects whose addresses are bytes of the
    file: reading them ends the process.
    """

    def __reduce__(self):
        return np.ndarray, ((1,), np.dtype("O"), b"A" * 8)


def test_arrays_beside_the_tensors_are_not_made(tmp_path):
    """A subprocess, because its end would be that of the tests."""
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
        argv, env=tiny_runs.environment(), capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stdout) == (0, "329\n"), done.stderr


def damage_pt(kind: str, at: Path) -> Path:
    """A .pt or SAT folder with something wrong."""
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
                r"mp_rank_00_model_states\.pt is damaged or no checkpoint of torch\.save \(since"
                r" 1\.6\): .*; get it again"
            ),
        ),
        ("old format", r"is damaged or no checkpoint of torch\.save \(since 1\.6\)"),
        (
            "no latest",
            (
                r"--unet .*sat has no `latest`, the file that says which of its steps to take; give"
                r" .*sat/1/mp_rank_00_model_states\.pt"
            ),
        ),
        (
            "latest elsewhere",
            r"latest holds '\.\./\.\./etc' and not the name of a folder beside it",
        ),
        ("latest of nothing", r"latest says 2, but there is no .*2/mp_rank_00_model_states\.pt"),
        (
            "two ranks",
            r"is split over 2 model-parallel ranks \(mp_rank_01_model_states\.pt\); merge them",
        ),
        ("compressed", r"is not of torch\.save: archive/data\.pkl in it is compressed"),
        (
            "large pickle",
            r"archive/data\.pkl has 135,266,304 bytes, more than names and shapes take",
        ),
        (
            "no tensors",
            r"holds no tensors under `module`, as a SAT checkpoint does, nor by themselves",
        ),
        (
            "other things",
            (
                r"sat/1/mp_rank_00_model_states\.pt: b is of another type; weights are one of"
                r" float16, bfloat16, float32 \(1 such\)"
            ),
        ),
        ("sparse", r"mp_rank_00_model_states\.pt: a is of another type; weights are one of"),
        ("zip of another version", r"is damaged or no checkpoint of torch\.save \(since 1\.6\)"),
        ("no values", r"a has the shape \[0, 1000000\] and no values \(1 such\)"),
        (
            "shape without bytes",
            r": a has the shape \[1000000, 1000000\], for which the file holds too few bytes",
        ),
        ("integers", r"a is int64; weights are one of float16, bfloat16, float32 \(1 such\)"),
    ],
)
def test_damaged_checkpoints_of_pytorch(kind, line, tmp_path):
    refused(tmp_path, line, "--unet", damage_pt(kind, tmp_path), *FLAGS)


def lying(path: Path, **changes) -> Path:
    """A safetensors file whose header says something else than what follows."""
    data = write(path, small()).read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + length])
    first = next(name for name in header if name != "__metadata__")
    header[first] |= changes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])
    return path


@pytest.mark.parametrize("kind", ["shape", "offsets", "length", "truncated", "empty", "text"])
def test_a_safetensors_header_that_lies_about_sizes(kind, tmp_path):
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
        r"u\.safetensors is damaged or no safetensors file: .*; get it again",
        "--unet",
        path,
        *FLAGS,
    )


def t5_folder(at: Path, kind: str) -> Path:
    folder = at / "t5"
    shutil.copytree(golden_models.files("micro") / "t5", folder)
    if kind == "no tokenizer":
        (folder / "spiece.model").unlink()
    elif kind == "gated-silu":
        (folder / "config.json").write_text(json.dumps({"feed_forward_proj": "gated-silu"}))
    elif kind == "small vocabulary":
        values = dict(tensors("t5/model.safetensors"))
        write(
            folder / "model.safetensors",
            values | {"shared.weight": values["shared.weight"][:100].copy()},
        )
    else:
        weight_map = {
            "escape": {"shared.weight": "../other.safetensors"},
            "lost": {"shared.weight": "gone.safetensors"},
            "unlisted": {"shared.weight": "model.safetensors"},
            "foreign": {"no.such": "model.safetensors"},
        }[kind]
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("no tokenizer", r"is not a tokenizer: it has neither tokenizer\.json nor spiece\.model"),
        ("gated-silu", r"config\.json: feed_forward_proj is gated-silu; T5 v1\.1 has gated-gelu"),
        (
            "small vocabulary",
            r"its tokenizer has \d+ tokens, the text encoder 100; they do not belong together",
        ),
        (
            "escape",
            (
                r"index\.json names '\.\./other\.safetensors', which is no \.safetensors file"
                r" beside it"
            ),
        ),
        ("lost", r"index\.json names 1 files that are not there: gone\.safetensors"),
        (
            "unlisted",
            (
                r"index\.json does not list encoder\..*, which a file beside it holds \(20 such"
                r" names\)"
            ),
        ),
        ("foreign", r"index\.json says no\.such is in model\.safetensors, but it is not"),
    ],
)
def test_text_encoders_that_are_not_whole(kind, line, tmp_path):
    refused(tmp_path, line, "--t5", t5_folder(tmp_path, kind))


def test_every_name_that_does_not_fit_is_in_one_line(tmp_path):
    values = dict(tensors("unet.safetensors"))
    for name in (
        "input_blocks.1.0.out_layers.3.bias",
        "input_blocks.1.0.out_layers.3.weight",
        "input_blocks.2.0.op.bias",
    ):
        del values[name]
    values["out.2.weight"] = values["out.2.weight"][:, :-1].copy()
    values |= {f"stray.{i}": np.zeros(1, np.float32) for i in range(30)}
    file = write(tmp_path / "u.safetensors", values)
    refused(
        tmp_path,
        rf"^--base {file} does not fit: 3 tensors missing, 30 unexpected, 1 of another shape:"
        r" input_blocks\.1\..* is missing, .*"
        r"stray\.\d+ is unexpected \(the first 20 of 34\)$",
        "--base",
        file,
        *FLAGS,
    )


def stage_flags(at: Path) -> dict[str, Path | str]:
    folder = golden_models.files("micro")
    (at / "text.yaml").write_text("a: [b")
    (at / "list.yaml").write_text("[1, 2]")
    (at / "there").mkdir()
    (at / "there" / "file").write_text("x")
    write_official(at / "base.yaml", "base")
    write_official(at / "relay.yaml", "relay")
    write_official(at / "wide.yaml", "base", model__network_config__params__model_channels=320)
    write_official(at / "steps.yaml", "base", model__sampler_config__params__num_steps="many")
    (at / "tag.yaml").write_text("a: !!bool maybe")
    (at / "huge.yaml").write_text(
        (at / "base.yaml").read_text().replace("num_steps: 4", "num_steps: 0x" + "f" * 5000)
    )
    return {
        "unet": folder / "unet.safetensors",
        "vae": folder / "vae.safetensors",
        "t5": folder / "t5",
        "at": at,
    }


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        ("", r"give either --base, --relay, --unet, --vae or --t5, or --checkpoint and --to"),
        (
            "--unet {unet} --image-size 32",
            r"heads of 64 channels do not divide its attention widths 32, 64; give --head-channels",
        ),
        (
            "--unet {unet} --image-size 32 --head-channels 24",
            r"--head-channels 24 does not divide its attention widths",
        ),
        ("--unet {vae}", r"--unet .*vae\.safetensors: there is no time_embed\.0\.weight"),
        ("--vae {unet}", r"holds no autoencoder, only 329 tensors of model\.diffusion_model\.\*"),
        ("--unet {at}/none", r"--unet .*none: there is no such file or folder"),
        ("--unet {at}/there", r"--unet .*there: no `latest` of a SAT checkpoint and no"),
        ("--unet {at}/list.yaml", r"--unet .*list\.yaml: give a \.safetensors file, a \.pt or"),
        ("--unet {unet} --base {unet} --head-channels 16", r"--unet is for one UNet alone"),
        (
            "--base {unet} --relay-start 200 --head-channels 16",
            r"--relay-start is for --relay or --unet, and there is none; leave it out",
        ),
        (
            "--unet {unet} --config {at}/base.yaml --relay-start 200",
            r"--relay-start 200: there is no relay here",
        ),
        (
            "--vae {vae} --dtype bfloat16",
            r"--dtype is for --base or --relay or --unet or --t5, and there is none",
        ),
        ("--vae {vae} --weights params", r"--weights is for --checkpoint, and there is none"),
        ("--t5 {t5} --latent-scale 1", r"--latent-scale is for --vae, and there is none"),
        (
            "--relay {unet} --relay-start 3 --steps 5 --head-channels 16",
            r"the relay has 5 steps from t = 3: both 1\.\.1000, and no more steps",
        ),
        (
            "--base {unet} --image-size 30 --head-channels 16",
            r"--image-size: the base's pictures have 30 pixels a side; give a multiple of 32",
        ),
        (
            "--base {unet} --config {at}/relay.yaml",
            r"--config .*relay\.yaml is of a relay, and there is no --relay",
        ),
        (
            "--base {unet} --config {at}/base.yaml --config {at}/base.yaml",
            r"--config was given 2 times for the base stage",
        ),
        (
            "--base {unet} --config {at}/wide.yaml",
            r"wide\.yaml says channels = 320, the weights are of 32; give the configuration",
        ),
        ("--base {unet} --config {at}/text.yaml", r"--config .*text\.yaml is not YAML"),
        (
            "--base {unet} --config {at}/list.yaml",
            r"--config .*list\.yaml is not CogView3's: it has no model\.network_config",
        ),
        (
            "--base {unet} --config {at}/steps.yaml",
            r"steps\.yaml: model\.sampler_config\.params\.num_steps is 'many', not a number",
        ),
        ("--base {unet} --config {at}/tag.yaml", r"--config .*tag\.yaml is not YAML"),
        (
            "--base {unet} --config {at}/huge.yaml",
            r"num_steps is a int, not a number that it could be",
        ),
        ("--base {unet} --config {at}/none.yaml", r"--config .*none\.yaml: No such file"),
        ("--vae {vae} --latent-scale 0", r"--latent-scale 0\.0: must be between 0 and 100"),
        ("--t5 {t5} --text-length 1", r"max_length = 1 .* give a length in 2\.\.4096"),
        ("--base {unet} --head-channels 16 --steps many", r"--steps many: give one int or two"),
    ],
)
def test_flags_and_configurations_that_do_not_fit(argv, line, tmp_path):
    places = stage_flags(tmp_path)
    refused(tmp_path, line, *argv.format(**places).split())


def test_an_out_that_exists_is_left_alone(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("mine")
    refused(
        tmp_path,
        r"--out .*out exists already; give a new directory",
        "--vae",
        golden_models.files("micro") / "vae.safetensors",
    )
    assert (tmp_path / "out" / "mine").read_text() == "mine"


def test_parts_that_do_not_belong_together(tmp_path):
    micro, tiny = golden_models.files("micro"), golden_models.files("tiny")
    line = "the base reads text features 24 wide, --t5 makes 64"
    refused(tmp_path, line, "--base", micro / "unet.safetensors", "--t5", tiny / "t5", *FLAGS)


def test_the_command_ends_with_2_and_one_line(tmp_path):
    file = write(tmp_path / "u.safetensors", small())
    argv = tiny_runs.command(
        "cv3jax.cli", "convert", "--base", str(file), "--out", str(tmp_path / "out")
    )
    done = subprocess.run(
        argv, env=tiny_runs.environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    assert done.stderr.startswith("cv3jax: --base ")
    assert done.stderr.count("\n") == 1
    assert not done.stdout


def test_a_pt_of_tensors_alone_is_read(tmp_path):
    """Without `module`, as torch.save(model.state_dict()) writes it."""
    torch = pytest.importorskip("torch")
    torch.save(
        {name: torch.from_numpy(value) for name, value in tensors("vae.safetensors").items()},
        tmp_path / "v.ckpt",
    )
    out = converted(tmp_path / "out", "--vae", tmp_path / "v.ckpt")
    assert same_bits(stored(out, "vae"), stored(golden_models.converted("micro"), "vae"))


@pytest.mark.parametrize(
    "argv",
    [
        "--vae {vae}",
        "--checkpoint {checkpoint} --to sat --parts base",
        "--checkpoint {checkpoint} --to safetensors --parts vae",
    ],
)
def test_a_full_disk_leaves_nothing(argv, tmp_path):
    if "sat" in argv.split():
        pytest.importorskip("torch")
    places = {
        "vae": golden_models.files("micro") / "vae.safetensors",
        "checkpoint": golden_models.converted("micro"),
    }
    with small_disk(tmp_path / "disk", 2**20, 2**18) as (disk, _):
        with pytest.raises(OSError, match="could not be written") as caught:
            converted(disk / "out", *argv.format(**places).split())
        assert str(disk) in caught.value.filename
        assert list(disk.iterdir()) == []
        del caught
        # its frames hold torch's writer and that the file, and the disk could not be unmounted
        gc.collect()
