"""Test whole files that `cv3jax convert` refuses.

They are incomplete text encoders, and names, flags, configurations and places that do not fit. Each
is refused in one line, and nothing is written.
"""

import gc
import json
import shutil
import subprocess
from pathlib import Path

import golden_models
import numpy as np
import pytest
import subprocesses
from official_files import write_official
from released_files import FLAGS, converted, refused, small, tensors, write
from small_disks import small_disk


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
        ("gated-silu", r"config\.json: feed_forward_proj is gated-silu, but T5 v1\.1 has"),
        (
            "small vocabulary",
            r"the tokenizer has \d+ tokens, but the text encoder has 100; give the tokenizer",
        ),
        (
            "escape",
            (
                r"index\.json names '\.\./other\.safetensors', which is not a \.safetensors file"
                r" beside it"
            ),
        ),
        ("lost", r"index\.json names files that are not there \(1 in all\): gone\.safetensors"),
        (
            "unlisted",
            (
                r"index\.json does not list encoder\..*, which a file beside it holds \(20"
                r" in all\)"
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
        r"stray\.\d+ is unexpected \(the first 5 of 34\)$",
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
        (
            "",
            "to import, give --base, --relay, --unet, --vae or --t5; to export, give --checkpoint"
            " and --to",
        ),
        (
            "--unet {unet} --image-size 32",
            r"heads of 64 channels do not divide its attention widths 32, 64; give the right",
        ),
        (
            "--unet {unet} --image-size 32 --head-channels 24",
            r"--head-channels 24 does not divide its attention widths",
        ),
        ("--unet {vae}", r"--unet .*vae\.safetensors: there is no tensor time_embed\.0\.weight"),
        ("--vae {unet}", r"holds no autoencoder, only 329 tensors of model\.diffusion_model\.\*"),
        ("--unet {at}/none", r"--unet .*none: there is no such file or folder"),
        ("--unet {at}/there", r"--unet .*there holds neither the `latest` of a SAT checkpoint nor"),
        ("--unet {at}/list.yaml", r"--unet .*list\.yaml: give a \.safetensors file, a \.pt or"),
        ("--unet {unet} --base {unet} --head-channels 16", r"--unet is for one UNet alone"),
        (
            "--base {unet} --relay-start 200 --head-channels 16",
            r"--relay-start needs --relay or --unet; give it, or leave --relay-start out",
        ),
        (
            "--unet {unet} --config {at}/base.yaml --relay-start 200",
            r"--relay-start 200: there is no relay to convert",
        ),
        (
            "--vae {vae} --dtype bfloat16",
            r"--dtype needs --base or --relay or --unet or --t5",
        ),
        ("--vae {vae} --weights params", r"--weights needs --checkpoint"),
        ("--t5 {t5} --latent-scale 1", r"--latent-scale needs --vae"),
        (
            "--relay {unet} --relay-start 3 --steps 5 --head-channels 16",
            r"the relay has 5 steps from t = 3: both must be 1\.\.1000, and there cannot be more"
            " steps",
        ),
        (
            "--base {unet} --image-size 30 --head-channels 16",
            r"--image-size: the base's pictures have 30 pixels per side; give a multiple of 32",
        ),
        (
            "--base {unet} --config {at}/relay.yaml",
            r"--config .*relay\.yaml describes a relay, but --relay is not given",
        ),
        (
            "--base {unet} --config {at}/base.yaml --config {at}/base.yaml",
            r"--config was given 2 times for the base stage",
        ),
        (
            "--base {unet} --config {at}/wide.yaml",
            r"wide\.yaml says channels = 320, but the weights have 32; give the configuration",
        ),
        ("--base {unet} --config {at}/text.yaml", r"--config .*text\.yaml is not YAML"),
        (
            "--base {unet} --config {at}/list.yaml",
            r"--config .*list\.yaml is not CogView3's: it has no model\.network_config",
        ),
        (
            "--base {unet} --config {at}/steps.yaml",
            r"steps\.yaml: model\.sampler_config\.params\.num_steps is 'many', which is not",
        ),
        ("--base {unet} --config {at}/tag.yaml", r"--config .*tag\.yaml is not YAML"),
        (
            "--base {unet} --config {at}/huge.yaml",
            r"huge\.yaml is not YAML: '0xf+' is no whole number: it has too many digits",
        ),
        ("--base {unet} --config {at}/none.yaml", r"--config .*none\.yaml: there is no such file"),
        ("--vae {vae} --latent-scale 0", r"--latent-scale 0\.0: must be between 0 and 100"),
        ("--t5 {t5} --text-length 1", r"length of t5 is 1, but must be 2\.\.4096"),
        (
            "--base {unet} --head-channels 16 --steps many",
            r"--steps many: give one whole number, or two",
        ),
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
    line = "the base reads text features of width 24, but --t5 makes features of width 64"
    refused(tmp_path, line, "--base", micro / "unet.safetensors", "--t5", tiny / "t5", *FLAGS)


def test_the_command_ends_with_2_and_one_line(tmp_path):
    file = write(tmp_path / "u.safetensors", small())
    argv = subprocesses.command(
        "cv3jax", "convert", "--base", str(file), "--out", str(tmp_path / "out")
    )
    done = subprocess.run(
        argv, env=subprocesses.environment(), capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2
    # a slow machine also says what it waits for
    lines = [x for x in done.stderr.splitlines() if not x.startswith("cv3jax: loading JAX")]
    assert len(lines) == 1
    assert lines[0].startswith("cv3jax: --base ")
    assert not done.stdout


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
