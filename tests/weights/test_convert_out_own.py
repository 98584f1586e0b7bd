"""Test the export of our own runs by `cv3jax convert`.

diffusers computes the same with them. EMA or parameters can be exported. What the target format
cannot express is refused.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import described
import jax
import numpy as np
import optax
import pytest
import toy_runs
from released_files import (
    RELATIVE,
    converted,
    relative,
    same_bits,
)
from safetensors.numpy import load_file

from cv3jax import recipes
from cv3jax.cascade.parts import build_model, load_params, model_shapes
from cv3jax.checkpoints import cascades, newest, runs, streaming
from cv3jax.checkpoints.description import CascadeDescription, TextDescription, VaeDescription
from cv3jax.diffusion.conditioning import make_cond, picture_sizes
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.training.train_step import create_state
from data_pipeline.io.errors import InputError
from data_pipeline.loading.tokenizer import train_tokenizer


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> Path:
    """Return the --workdir of a finished run of the tiny base recipe.

    Its parameters are random instead of trained, and the EMA is half of them.
    """
    run, c = tmp_path_factory.mktemp("own"), recipes.load("scenes_base:tiny", [])
    vae, fields = (
        recipes.load("scenes_vae:tiny", []).model.to_dict(),
        {**recipes.to_json(c)["model"], "out_channels": 8},
    )
    t5 = {
        name: value
        for name, value in recipes.to_json(c)["text"].items()
        if name not in ("random", "length")
    }
    shapes = {
        "base": model_shapes(build_model(UNet, fields), t5["channels"]),
        "vae": model_shapes(build_model(Autoencoder, vae)),
        "t5": model_shapes(build_model(T5Encoder, t5)),
    }
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: rng.normal(0.0, 0.2, x.shape).astype(x.dtype), shapes)
    halved = jax.tree.map(lambda x: x / 2, params)
    for name, tree in halved.items():
        cascades.save_part(run / "cascade" / name, tree)
    stage = described.stage(model=fields, text_width=t5["channels"], steps=2, guidance=1.0)
    described_vae = VaeDescription(
        recipes.to_json(recipes.load("scenes_vae:tiny", []))["model"], 1.0
    )
    description = CascadeDescription(described_vae, TextDescription(t5, 24), {"base": stage})
    cascades.write_cascade(run / "cascade", description)
    train_tokenizer(["a red star", "a blue ring"], run / "cascade" / "t5" / "tokenizer", 64, 24)
    state = create_state(lambda key: None, optax.sgd(0.1), jax.random.key(0), params["base"])
    places = {part: run / "cascade" / part for part in ("vae", "t5")}
    manager = runs.open_manager(run / "checkpoints")
    runs.save(
        manager,
        3,
        dataclasses.replace(state, ema=halved["base"]),
        toy_runs.numbers(),
        {"config": recipes.to_json(c), "cascade": newest.about("base", description, places)},
    )
    runs.finish(manager)
    manager.close()
    return run


def test_diffusers_computes_what_a_model_of_our_own_does(own, tmp_path):
    """It has other sizes than the released ones, and other norms."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    out = converted(tmp_path / "out", "--checkpoint", own, "--to", "diffusers", "--parts", "base")
    directory, description = cascades.read_cascade(own)
    stage = description.stages["base"]
    params = load_params(directory, description, ("base",))[0]["base"]
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, 8, 8, stage.model["out_channels"]), np.float32)
    text = rng.standard_normal((2, 5, stage.text_width), np.float32)
    index = np.array([3, 900], np.int32)
    ours = jax.jit(build_model(UNet, stage.model).apply)(
        {"params": params}, x, index, make_cond(text, picture_sizes(2, 32, 32))
    )
    unet = diffusers.UNet2DConditionModel.from_pretrained(
        out / "base", low_cpu_mem_usage=False
    ).eval()
    added = {
        "text_embeds": torch.zeros(2, 0),
        "time_ids": torch.from_numpy(np.array(picture_sizes(2, 32, 32))),
    }
    given = (torch.from_numpy(value) for value in (x.transpose(0, 3, 1, 2).copy(), index, text))
    with torch.no_grad():
        theirs = unet(*given, added_cond_kwargs=added)
    assert relative(ours, theirs.sample.numpy().transpose(0, 2, 3, 1)) <= RELATIVE
    assert (
        json.loads((out / "base" / "config.json").read_text())["norm_num_groups"]
        == stage.model["groups"]
    )


def test_a_run_gives_its_ema_or_its_parameters_finished_or_not(own, tmp_path):
    """The weights of a checkpoint's state have diffusers' names."""
    unfinished = tmp_path / "unfinished"
    shutil.copytree(own / "checkpoints", unfinished / "checkpoints")
    made = {}
    for weights in ("ema", "params"):
        out = converted(
            tmp_path / weights,
            "--checkpoint",
            unfinished,
            "--to",
            "diffusers",
            "--weights",
            weights,
            "--parts",
            "base",
        )
        made[weights] = load_file(out / "base" / "diffusion_pytorch_model.safetensors")
        kernel = streaming.open_tree(own / "checkpoints" / "3" / "state", (weights,))["conv_in"][
            "kernel"
        ].read()
        np.testing.assert_array_equal(made[weights]["conv_in.weight"], kernel.transpose(3, 2, 0, 1))
    assert not np.array_equal(made["ema"]["conv_in.weight"], made["params"]["conv_in.weight"])
    finished = converted(
        tmp_path / "finished", "--checkpoint", own, "--to", "diffusers", "--parts", "base"
    )
    assert same_bits(
        load_file(finished / "base" / "diffusion_pytorch_model.safetensors"), made["ema"]
    )


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (
            ["--checkpoint", "{base}", "--to", "sat", "--parts", "base"],
            r"the base has norms of 8 groups, but sgm's have 32; give --to diffusers, or",
        ),
        (
            ["--checkpoint", "{base}", "--to", "safetensors"],
            r"the vae is not of SDXL's family \(patch 4, 4 groups of norms, .*--parts t5,base",
        ),
        (
            ["--checkpoint", "{base}", "--to", "sat", "--parts", "relay"],
            r"--parts relay: .* has no part 'relay'; give some of vae, t5, base",
        ),
        (
            ["--checkpoint", "{base}/cascade", "--to", "diffusers", "--weights", "params"],
            r"--weights params: .* has no checkpoints/",
        ),
        (
            ["--checkpoint", "{at}", "--to", "diffusers"],
            r"is not a checkpoint: it has neither cascade\.json",
        ),
        (
            ["--checkpoint", "{base}"],
            r"to import, give --base, .*; to export, give --checkpoint and --to",
        ),
        (
            ["--checkpoint", "{base}", "--to", "diffusers", "--parts", "base", "--vae", "x"],
            r"to import, give --base, .*; to export, give --checkpoint and --to",
        ),
        (
            ["--checkpoint", "{foreign}", "--to", "diffusers", "--parts", "base"],
            r"channels of base is \d+, but its stored arrays have \d+; restore both",
        ),
        (
            ["--checkpoint", "{damaged}", "--to", "diffusers", "--parts", "base"],
            r"damaged/base is damaged: .* differs from what was",
        ),
    ],
)
def test_what_cannot_go_out_is_refused(argv, line, own, tmp_path):
    places = {
        "base": own,
        "at": tmp_path,
        "damaged": tmp_path / "damaged",
        "foreign": tmp_path / "foreign",
    }
    if "{foreign}" in argv:
        shutil.copytree(own / "cascade", places["foreign"])
        description = json.loads((own / "cascade" / "cascade.json").read_text())
        del description["sha256"]
        description["stages"]["base"]["model"]["channels"] *= 2
        (places["foreign"] / "cascade.json").write_text(json.dumps(description))
    if "{damaged}" in argv:
        shutil.copytree(places["base"] / "cascade", places["damaged"])
        file = max((places["damaged"] / "base").rglob("d/*"), key=lambda path: path.stat().st_size)
        file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(InputError, match=line):
        converted(tmp_path / "out", *(argument.format(**places) for argument in argv))
    assert not (tmp_path / "out").exists()
