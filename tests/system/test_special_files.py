"""Test that no reader waits for a pipe, or reads a device or a huge file to its end.

Each file that a command reads is replaced by one of another kind. The reader ends with one line.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import adapters
import golden_models
import pytest
import tiny_runs
from random_cascades import description
from special_files import KINDS, refused

from cv3jax.adapters import formats
from cv3jax.checkpoints.cascades import read_cascade
from cv3jax.sampling import given_pictures, inputs, png_record
from cv3jax.serving.http.keys import read_keys
from cv3jax.weights import digests, importing
from cv3jax.weights.lpips import load_lpips
from cv3jax.weights.release_yaml import read_official
from data_pipeline.builder.blocklist import read_blocked
from data_pipeline.builder.settings import load_settings
from data_pipeline.expansion.local import check_local
from data_pipeline.expansion.template import load_template
from data_pipeline.io.regular_files import check_files
from data_pipeline.loading.tokenizer import load_tokenizer
from data_pipeline.recaption.dialogue import load_dialogue
from data_pipeline.records.records import open_records

Read = Callable[[Path], object]
NOISE = {"base": (1, 2, 2, 4)}


def import_unet(path: Path) -> None:
    importing.import_unet(path, "--base", head_channels=16, official=None, dtype="float32")


def import_t5(folder: Path) -> None:
    importing.import_t5(folder, "--t5", dtype="float32")


def compare(path: Path) -> None:
    digests.check_digests("--base", path, [path], [], {path.name: "0" * 64})


# a file by itself → what reads it
FILES: dict[str, Read] = {
    "u.safetensors": import_unet,
    "u.pt": import_unet,
    "u.bin": import_unet,
    "lpips.safetensors": load_lpips,
    "lora.safetensors": formats.read,
    "official.yaml": read_official,
    "compared.safetensors": compare,
    "a.png": lambda path: inputs.read_images([path], 8),
    "b.png": lambda path: given_pictures.read_pictures([(path, "x")], description(), 2),
    "c.png": png_record.read_record,
    "noise.npz": lambda path: inputs.read_noise(path, NOISE),
    "prompts.txt": lambda path: inputs.read_prompts(path, 1),
    "prompts.jsonl": lambda path: inputs.read_prompts(path, 1),
    "keys.txt": lambda path: read_keys(path, None),
    "m.gguf": lambda path: check_local(path, {}),
    "template.json": load_template,
    "dialogue.json": load_dialogue,
    "filters.yaml": lambda path: load_settings(path, {}),
    "blocked.txt": read_blocked,
    "whatever": lambda path: check_files([path], 2**20),
}


def t5(folder: Path) -> None:
    shutil.copytree(golden_models.files("micro") / "t5", folder, dirs_exist_ok=True)


def model(folder: Path) -> None:
    """Write what transformers reads, as far as it is looked at before transformers is."""
    (folder / "config.json").write_text("{}")


def adapter(folder: Path) -> None:
    formats.write(folder / "made", adapters.adapter([f"{adapters.BLOCK}.attn1.to_q"]), "peft")
    for file in (folder / "made").iterdir():
        file.rename(folder / file.name)


def sat(folder: Path) -> None:
    del folder


def cascade(folder: Path) -> None:
    shutil.copytree(golden_models.converted("micro"), folder, dirs_exist_ok=True)


def records(folder: Path) -> None:
    shutil.copytree(tiny_runs.scenes(), folder, dirs_exist_ok=True)


# a file of a folder → (what makes the folder, what reads it)
IN_FOLDERS: dict[str, tuple[Callable[[Path], None], Read]] = {
    "config.json": (t5, import_t5),
    "model.safetensors": (t5, import_t5),
    "model.safetensors.index.json": (t5, import_t5),
    "tokenizer.json": (t5, load_tokenizer),
    "tokenizer_config.json": (t5, load_tokenizer),
    "spiece.model": (t5, load_tokenizer),
    "added_tokens.json": (t5, load_tokenizer),
    "generation_config.json": (model, lambda folder: check_local(folder, {})),
    "a.safetensors": (model, lambda folder: check_local(folder, {})),
    "adapter_config.json": (adapter, formats.read),
    "adapter_model.safetensors": (adapter, formats.read),
    "latest": (sat, import_unet),
    "cascade.json": (cascade, read_cascade),
    "vae/manifest.ocdbt": (cascade, read_cascade),
    "dataset_info.json": (records, open_records),
    "features.json": (records, open_records),
}
# its caller names the file
UNNAMED = {"c.png"}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_kind_is_refused_in_one_line(name, kind, tmp_path):
    KINDS[kind](tmp_path / name)
    line = refused(lambda: FILES[name](tmp_path / name))
    assert name in line or name in UNNAMED


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (name, kind)
        for name in IN_FOLDERS
        for kind in KINDS
        # transformers takes a folder of that name for no file
        if (name, kind) != ("generation_config.json", "folder")
    ],
)
def test_a_file_of_a_folder_that_is_of_another_kind_is_refused(name, kind, tmp_path):
    make, read = IN_FOLDERS[name]
    make(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    KINDS[kind](tmp_path / name)
    assert refused(lambda: read(tmp_path))
