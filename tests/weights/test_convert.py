"""Test `cv3jax convert` of released files.

Every form of the files gives the same parameters, and the command says what it recognised.
"""

import json
import shutil

import golden_models
import ml_dtypes
import numpy as np
import pytest
from released_files import (
    FLAGS,
    UNET,
    cast,
    converted,
    prefixed,
    same_bits,
    stored,
    tensors,
    write,
    write_pt,
    write_sat,
)
from safetensors.numpy import load_file

from cv3jax.cascade.parts import load_params
from cv3jax.checkpoints import cascades, streaming
from cv3jax.weights.select_model import PREFIX
from data_pipeline.io.errors import InputError

T5_FILES = ("config.json", "spiece.model", "tokenizer_config.json")


def reference(part: str, dtype=np.float32) -> dict[str, np.ndarray]:
    """Return the checkpoint of the golden tests as `dtype`."""
    return cast(stored(golden_models.converted("micro"), part), dtype)


def as_file(form: str, at):
    """Write the UNet in one of its forms and return (path, dtype)."""
    values = tensors("unet.safetensors")
    if form == "bare bfloat16 safetensors":
        return write(at / "u.safetensors", cast(values, ml_dtypes.bfloat16)), ml_dtypes.bfloat16
    pytest.importorskip("torch")
    if form == "half-precision SAT folder":
        return write_sat(at / "sat", prefixed(cast(values, np.float16)), iteration=3), np.float16
    if form == "bare .pt":
        return write_pt(at / "u.pt", values), np.float32
    return write_pt(at / "u.pt", prefixed(values)), np.float32


@pytest.mark.parametrize(
    "form", ["bare bfloat16 safetensors", "half-precision SAT folder", "bare .pt", "prefixed .pt"]
)
def test_every_form_of_a_unet_gives_the_same_parameters(form, tmp_path):
    file, dtype = as_file(form, tmp_path)
    out = converted(tmp_path / "out", "--base", file, *FLAGS)
    assert same_bits(stored(out, "base"), reference("base", dtype))
    directory, description = cascades.read_cascade(out)
    assert description.stages.keys() == {"base"}
    # as training and sampling read it: float32 whatever is stored
    loaded = load_params(directory, description)[0]["base"]
    assert same_bits(
        {"/".join(path): np.asarray(value) for path, value in streaming.walk(loaded)},
        cast(reference("base", dtype), np.float32),
    )
    assert sorted(path.name for path in out.iterdir()) == ["base", "cascade.json"]


def test_a_stack_of_several_dtypes_has_the_one_that_holds_them_all(tmp_path):
    """Layers of one depth become one array."""
    tables = cast(tensors("t5/model.safetensors"), np.float16)
    first = next(name for name in tables if ".block.0." in name and name.endswith("q.weight"))
    tables[first] = tables[first].astype(np.float32)
    shutil.copytree(golden_models.files("micro") / "t5", tmp_path / "t5")
    write(tmp_path / "t5" / "model.safetensors", tables)
    ours = stored(converted(tmp_path / "out", "--t5", tmp_path / "t5"), "t5")
    wanted = reference("t5", np.float16)
    wanted["layers/q/kernel"] = reference("t5")["layers/q/kernel"]
    assert same_bits(ours, wanted)


def test_it_says_what_it_recognised_and_where_each_setting_is_from(tmp_path, capsys):
    unet = golden_models.files("micro") / "unet.safetensors"
    converted(tmp_path / "out", "--relay", unet, *FLAGS, "--steps", "9,2", "--json", tmp_path / "f")
    said = capsys.readouterr().err
    for words in (
        (
            "relay: UNet of 32 × (1, 1, 2) channels, 1 blocks a stage, depth (0, 1, 1) and 1 in the"
            " middle, 4 latent channels, text 24 wide"
        ),
        (
            "distilled, w in 512 dimensions; heads of 16 channels (--head-channels); 329 tensors,"
            " 1,388,516 parameters, float32"
        ),
        (
            "relay: image size 64 (--image-size), steps 2 (--steps), start 500 (default), w 7.5"
            " (default), prediction eps (default)"
        ),
        "the released 1-step relay starts at 200: give --relay-start 200",
    ):
        assert words in said
    assert (
        json.loads((tmp_path / "f").read_text())["recognised"]["relay"][1]
        == "heads of 16 channels (--head-channels)"
    )


def test_models_of_one_engine_s_checkpoint_are_used_where_asked_for_else_listed(tmp_path, capsys):
    engine = {
        **prefixed(tensors("unet.safetensors")),
        **prefixed(tensors("vae.safetensors"), PREFIX["vae"]),
        **prefixed(tensors("t5/model.safetensors"), PREFIX["t5"]),
        "denoiser.sigmas": np.zeros(1000, np.float32),
    }
    file, tokenizer = (
        write(tmp_path / "engine.safetensors", engine),
        golden_models.files("micro") / "t5",
    )
    out = converted(tmp_path / "one", "--unet", file, *FLAGS)
    assert same_bits(stored(out, "base"), reference("base"))
    counts = (
        "176 tensors of first_stage_model.*",
        "21 tensors of conditioner.embedders.0.transformer.*",
        "1 tensor of denoiser.*",
    )
    said = capsys.readouterr().err
    assert all(count in said for count in counts)
    out = converted(tmp_path / "all", "--vae", file, "--t5", file, "--tokenizer", tokenizer)
    for part in ("vae", "t5"):
        assert same_bits(stored(out, part), reference(part))
    for name in T5_FILES[1:]:
        assert (out / "t5" / "tokenizer" / name).read_bytes() == (tokenizer / name).read_bytes()


def test_t5_comes_sharded_whole_and_tied(tmp_path):
    """The files have the shards of transformers, and a decoder that is not read.

    The table of tokens is there under both of its names.
    """
    values = {
        **tensors("t5/model.safetensors"),
        "lm_head.weight": np.ones((256, 24), np.float32),
        "decoder.block.0.layer.0.SelfAttention.q.weight": np.ones((32, 24), np.float32),
    }
    values["encoder.embed_tokens.weight"] = values["shared.weight"].copy()
    folder = tmp_path / "t5"
    folder.mkdir()
    for name in T5_FILES:
        shutil.copy(golden_models.files("micro") / "t5" / name, folder)
    names = sorted(values)
    shards = {
        "model-00001-of-00002.safetensors": names[::2],
        "model-00002-of-00002.safetensors": names[1::2],
    }
    for shard, own in shards.items():
        write(folder / shard, {name: values[name] for name in own})
    index = {"weight_map": {name: shard for shard, own in shards.items() for name in own}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    out = converted(tmp_path / "out", "--t5", folder)
    assert same_bits(stored(out, "t5"), reference("t5"))
    values["encoder.embed_tokens.weight"][3, 3] += 1
    write(folder / "model-00001-of-00002.safetensors", {name: values[name] for name in names[::2]})
    write(folder / "model-00002-of-00002.safetensors", {name: values[name] for name in names[1::2]})
    with pytest.raises(
        InputError, match=r"encoder\.embed_tokens\.weight differs from shared\.weight"
    ):
        converted(tmp_path / "again", "--t5", folder)


def test_a_diffusers_autoencoder_is_the_same_as_sgm_s(tmp_path):
    """Its folder is made from ours, with today's and with older names.

    test_convert_out.py runs diffusers itself on one.
    """
    folder = (
        converted(
            tmp_path / "d",
            "--checkpoint",
            golden_models.converted("micro"),
            "--to",
            "diffusers",
            "--parts",
            "vae",
        )
        / "vae"
    )
    out = converted(tmp_path / "new", "--vae", folder)
    assert same_bits(stored(out, "vae"), reference("vae"))
    assert (
        cascades.read_cascade(out)[1].vae
        == cascades.read_cascade(golden_models.converted("micro"))[1].vae
    )
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    values = load_file(folder / "diffusion_pytorch_model.safetensors")
    for new, old in older.items():
        values = {
            name.replace(f".attentions.0.{new}.", f".attentions.0.{old}."): value
            for name, value in values.items()
        }
    write(folder / "diffusion_pytorch_model.safetensors", values)
    config = json.loads((folder / "config.json").read_text()) | {"scaling_factor": 0.5}
    (folder / "config.json").write_text(json.dumps(config))
    out = converted(tmp_path / "old", "--vae", folder)
    assert same_bits(stored(out, "vae"), reference("vae"))
    assert cascades.read_cascade(out)[1].vae.scale == 0.5


def test_base_and_relay_are_not_exchanged(tmp_path):
    """This is checked for imports and exports."""
    files = {
        name: write(
            tmp_path / f"{name}.safetensors",
            {key: value + offset for key, value in tensors("unet.safetensors").items()},
        )
        for name, offset in (("base", np.float32(1)), ("relay", np.float32(2)))
    }
    inside = converted(tmp_path / "in", "--relay", files["relay"], "--base", files["base"], *FLAGS)
    out = converted(tmp_path / "out", "--checkpoint", inside, "--to", "safetensors")
    for name, offset in (("base", 1), ("relay", 2)):
        np.testing.assert_array_equal(
            stored(inside, name)["conv_in/bias"],
            reference("base")["conv_in/bias"] + np.float32(offset),
        )
        assert same_bits(load_file(out / f"{name}.safetensors"), prefixed(load_file(files[name])))


def test_names_with_and_without_the_prefix(tmp_path):
    """Names with the prefix win; a bare name beside them is not the UNet's."""
    values = prefixed(tensors("unet.safetensors")) | {"extra.weight": np.ones(3, np.float32)}
    out = converted(tmp_path / "out", "--unet", write(tmp_path / "u.safetensors", values), *FLAGS)
    assert same_bits(stored(out, "base"), reference("base"))
    bare = {name.removeprefix(UNET): value for name, value in values.items()}
    with pytest.raises(
        InputError,
        match=r"0 tensors missing, 1 unexpected, 0 of another shape: extra\.weight is unexpected",
    ):
        converted(tmp_path / "again", "--unet", write(tmp_path / "v.safetensors", bare), *FLAGS)
