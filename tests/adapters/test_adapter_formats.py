"""Test that adapters go through every format and come back with the same bits."""

import json

import adapters
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from cv3jax.adapters import formats, naming
from cv3jax.adapters.adapter import DIFFUSERS
from cv3jax.adapters.naming import SIZES, of_diffusers, with_dots
from data_pipeline.io.errors import InputError

FORMATS = ("native", "kohya", "diffusers", "peft")
KINDS = {
    "plain": {},
    "rslora": {"rslora": True},
    "dora": {"dora": True},
    "float16": {"dtype": adapters.HALF[0]},
    "bfloat16": {"dtype": adapters.HALF[1], "dora": True},
    "float64": {"dtype": np.float64},
}


def name_of(format: str) -> str:
    return "folder" if format == "peft" else "a.safetensors"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", FORMATS)
def test_a_round_trip_keeps_every_bit(format, kind, tmp_path):
    ours = adapters.adapter(**KINDS[kind])
    formats.write(tmp_path / name_of(format), ours, format)
    found, read = formats.read_as(tmp_path / name_of(format))
    back = naming.named(read, "sgm", None, "it")
    assert found == format
    assert adapters.same(ours, back) == []
    formats.write(tmp_path / "native", back, "native")
    assert adapters.same(ours, formats.read(tmp_path / "native")) == []


@pytest.mark.parametrize("begun", ["checkpoints", "features"])
def test_a_run_without_an_adapter_yet_is_named_so(begun, tmp_path):
    (tmp_path / "w" / begun).mkdir(parents=True)
    with pytest.raises(InputError) as e:
        formats.read(tmp_path / "w", "--lora w")
    assert str(e.value) == (
        "--lora w is a run that has no adapter yet: a fine-tune writes lora/adapter.safetensors"
        " with every checkpoint; run its command until the first one, or give another workdir"
    )


def test_a_workdir_is_its_adapter(tmp_path):
    ours = adapters.adapter()
    (tmp_path / "lora").mkdir()
    formats.write(tmp_path / "lora" / "adapter.safetensors", ours, "native")
    for folder in (tmp_path, tmp_path / "lora"):
        assert adapters.same(ours, formats.read(folder)) == []


def test_one_round_through_all_formats(tmp_path):
    ours = adapters.adapter(rslora=True, dtype=np.float16, dora=True)
    now = ours
    for i, format in enumerate((*FORMATS, *FORMATS[::-1])):
        formats.write(tmp_path / f"{i}", now, format)
        now = naming.named(formats.read(tmp_path / f"{i}"), "sgm", None, "it")
    assert adapters.same(ours, now) == []


def test_every_module_of_the_unet_has_a_name_in_each_format():
    released = naming.Sizes(320, (1, 2, 4), 2, (0, 2, 10), 10, 256)
    for sizes in (adapters.SIZES_OF, released):
        ours = naming.modules(sizes)
        theirs = of_diffusers(sizes)
        assert len({*theirs.values()}) == len(ours)
        for name in (*ours, *theirs.values()):
            assert with_dots(name.replace(".", "_")) == name
        assert all(naming.naming_of(name) == "sgm" for name in ours)
        assert all(naming.naming_of(name) == DIFFUSERS for name in theirs.values())
    assert len(ours) > 700


def test_kohya_has_its_own_keys(tmp_path):
    formats.write(tmp_path / "a", adapters.adapter(dora=True), "kohya")
    tensors = load_file(tmp_path / "a")
    key = "lora_unet_middle_block_1_transformer_blocks_0_attn2_to_out_0"
    found = {name: tensors[name].shape for name in tensors if name.startswith(key)}
    assert found == {
        f"{key}.lora_down.weight": (3, 32),
        f"{key}.lora_up.weight": (32, 3),
        f"{key}.alpha": (),
        f"{key}.dora_scale": (32, 1),
    }
    assert tensors["lora_unet_input_blocks_2_0_op.dora_scale"].shape == (16, 1, 1, 1)
    with safe_open(tmp_path / "a", "np") as file:
        assert file.metadata()["ss_comment"] == "drawn at random"


def test_diffusers_has_its_own_keys_and_config(tmp_path):
    formats.write(tmp_path / "a", adapters.adapter(), "diffusers")
    with safe_open(tmp_path / "a", "np") as file:
        names, metadata = set(file.keys()), file.metadata()
    config = json.loads(metadata["lora_adapter_metadata"])
    assert "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q.lora_A.weight" in names
    assert "unet.down_blocks.0.downsamplers.0.conv.lora_B.weight" in names
    assert "unet.add_embedding.linear_2.lora_A.weight" in names
    assert config["unet.r"] in (1, 2, 3, 4)
    assert len(config["unet.target_modules"]) == len(adapters.SOME)


OLD = {
    "lora.down": ("unet.{}.lora.down.weight", "unet.{}.lora.up.weight"),
    "linear_layer": (
        "unet.{}.lora_linear_layer.down.weight",
        "unet.{}.lora_linear_layer.up.weight",
    ),
    "bare": ("{}.lora_A.weight", "{}.lora_B.weight"),
    "processor": (
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.down.weight",
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.processor.to_q_lora.up.weight",
    ),
}


@pytest.mark.parametrize("alpha", [None, 0.5])
@pytest.mark.parametrize("kind", OLD)
def test_older_keys_of_diffusers_are_read(kind, alpha, tmp_path):
    name = f"{adapters.BLOCK}.attn1.to_q"
    layer = adapters.adapter([name]).layers[name]
    theirs = of_diffusers(adapters.SIZES_OF)[name]
    down, up = (key.format(theirs) for key in OLD[kind])
    tensors = {down: layer.down, up: layer.up}
    if alpha is not None:
        tensors[f"unet.{theirs}.alpha"] = np.asarray(alpha, np.float32)
    save_file(tensors, tmp_path / "a.safetensors")
    read = formats.read(tmp_path / "a.safetensors")
    read = naming.named(read, "sgm", adapters.SIZES_OF, "it")
    assert [*read.layers] == [name]
    assert read.layers[name].alpha == (layer.rank if alpha is None else alpha)
    assert read.layers[name].down.tobytes() == layer.down.tobytes()


def test_kohya_without_alpha_has_a_scale_of_one_by_layer(tmp_path):
    ours = adapters.adapter()
    formats.write(tmp_path / "a", ours, "kohya")
    tensors = {k: v for k, v in load_file(tmp_path / "a").items() if not k.endswith(".alpha")}
    save_file(tensors, tmp_path / "b.safetensors")
    read = formats.read(tmp_path / "b.safetensors")
    assert {layer.rank for layer in read.layers.values()} == {1, 2, 3, 4}
    assert {read.scale(name) for name in read.layers} == {1.0}


def test_kohya_with_names_of_diffusers_is_read(tmp_path):
    ours = adapters.adapter()
    theirs = of_diffusers(adapters.SIZES_OF)
    tensors = {}
    for name, layer in ours.layers.items():
        key = f"lora_unet_{theirs[name].replace('.', '_')}"
        tensors |= {f"{key}.lora_down.weight": layer.down, f"{key}.lora_up.weight": layer.up}
        tensors[f"{key}.alpha"] = np.asarray(layer.alpha, np.float64)
    save_file(tensors, tmp_path / "a.safetensors", {**ours.metadata, "cv3jax.stage": "base"})
    read = naming.named(formats.read(tmp_path / "a.safetensors"), "sgm", None, "it")
    assert adapters.same(ours, read) == []


def test_a_text_encoder_is_left_out_on_request(tmp_path):
    ours = adapters.adapter()
    formats.write(tmp_path / "a", ours, "kohya")
    tensors = load_file(tmp_path / "a")
    more = {"lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": np.asarray(1.0, np.float32)}
    save_file(
        {**tensors, **more}, tmp_path / "b.safetensors", {**ours.metadata, "cv3jax.stage": "base"}
    )
    read = formats.read(tmp_path / "b.safetensors", text_encoder=False)
    assert adapters.same(ours, read) == []


def test_the_header_has_the_sizes_so_that_names_need_no_checkpoint(tmp_path):
    formats.write(tmp_path / "a", adapters.adapter(), "diffusers")
    read = formats.read(tmp_path / "a")
    assert naming.Sizes.from_json(read.metadata[SIZES], "it") == adapters.SIZES_OF
    assert read.naming == DIFFUSERS
