"""Test that commands read adapters at addresses: files, PEFT's folders and fine-tunes."""

import argparse
import json
from pathlib import Path

import adapters
import pytest
from object_servers import BUCKET, environment, serving

from cv3jax import cli
from cv3jax.adapters import formats
from cv3jax.adapters.given import parse
from cv3jax.checkpoints import cascades
from cv3jax.commands import lora_inspect, serve
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.mirror import mirrored
from data_pipeline.io.objects.store import Store

AT = f"s3://{BUCKET}/loras"
STAGES = cascades.read_cascade("scenes")[1].stages


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """Return a folder with teal.safetensors and the folder peft, which are at AT too."""
    folder = tmp_path_factory.mktemp("loras")
    made = adapters.of_stage(STAGES["base"], seed=1)
    formats.write(folder / "teal.safetensors", made, "native")
    formats.write(folder / "peft", made, "peft")
    with serving("s3") as port, pytest.MonkeyPatch.context() as patch:
        for name, value in environment("s3", port).items():
            patch.setenv(name, value)
        patch.setenv("CV3JAX_STORES", str(folder.with_name("stores")))
        for path in folder.rglob("*.*"):
            Store(AT).upload(path, str(path.relative_to(folder)))
        with mirrored(f"{AT}/run") as work:
            (work / "lora").mkdir()
            (work / "lora" / "adapter.safetensors").write_bytes(
                (folder / "teal.safetensors").read_bytes()
            )
            (work / "checkpoints").mkdir()
            (work / "checkpoints" / "large").write_bytes(b"x")
        yield folder


@pytest.mark.parametrize(
    ("local", "stored"),
    [
        ("teal.safetensors", "teal.safetensors"),
        ("peft", "peft"),
        ("peft/adapter_model.safetensors", "peft/adapter_model.safetensors"),
        ("teal.safetensors", "run"),
        ("teal.safetensors", "run/lora/adapter.safetensors"),
    ],
)
def test_an_adapter_at_an_address_is_read(here, local, stored, tmp_path):
    found = []
    for place in (here / local, f"{AT}/{stored}"):
        lora_inspect.main(["--lora", str(place), "--json", str(tmp_path / "json")])
        found.append(json.loads((tmp_path / "json").read_text())["files"][0]["sha256"])
    assert found[0] == found[1]


def test_stage_and_weight_stand_around_an_address(here):
    one = parse(f"base={AT}/run:0.5")
    assert (one.stage, one.weight, one.where) == ("base", 0.5, f"--lora {AT}/run")
    names = [path.name for path in one.path.rglob("*") if path.is_file()]
    assert names == ["adapter.safetensors"]  # and no checkpoint


def test_a_server_reads_a_folder_of_adapters(here):
    args = argparse.Namespace(lora_dir=Path(f"{AT}/"), checkpoint="scenes")
    found = serve.adapters_of(args, cascades.read_cascade("scenes")[1])
    assert found.keys() == {"teal", "peft"}


def test_a_wrong_address_is_one_line(here, capfd):
    with pytest.raises(SystemExit) as ended:
        cli.run_command(lora_inspect.main, ["--lora", f"{AT}/tael.safetensors"])
    line = f"cv3jax: --lora {AT}/tael.safetensors: there is no such object, and no folder with"
    said = capfd.readouterr().err
    assert ended.value.code == 2
    assert said.startswith(line)
    assert said.count("\n") == 1
    with pytest.raises(InputError, match="this is a whole bucket"):
        parse(f"s3://{BUCKET}")
