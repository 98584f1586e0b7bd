"""Test `--lora` of sample and upscale, and `Cascade.load(lora=...)`.

The pictures are those of the merged cascade, weights of 0 are the base bit for bit, and records and
plans say which adapters drew.
"""

import json

import adapters
import numpy as np
import pytest
from PIL import Image

import cv3jax
from cv3jax.adapters import formats
from cv3jax.adapters.applied import applied_to
from cv3jax.adapters.given import parse, parse_all
from cv3jax.cascade.pipeline import load
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.streaming import walk
from cv3jax.commands import lora_merge, sample, upscale
from cv3jax.sampling import png_record
from cv3jax.sampling.metadata import read_drawing
from data_pipeline.io.errors import InputError

DESCRIPTION = cascades.read_cascade("scenes")[1]
STAGES = DESCRIPTION.stages
PROMPT = "a small green star, black background"


@pytest.fixture(scope="module")
def at(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name in STAGES:
        made = adapters.of_stage(STAGES[name], seed=len(name), every=9, size=0.3)
        formats.write(folder / f"{name}.safetensors", made, "kohya" if name == "base" else "native")
    return folder


def drawn(out, *flags: str) -> np.ndarray:
    sample.main(["--checkpoint", "scenes", "--prompt", PROMPT, "--out", str(out), *flags])
    (file,) = out.glob("00_*.png")
    return np.asarray(Image.open(file))


@pytest.fixture(scope="module")
def plain(at):
    return drawn(at / "plain")


@pytest.fixture(scope="module")
def both(at):
    flags = ["--lora", f"{at}/base.safetensors:0.5", "--lora", f"relay={at}/relay.safetensors"]
    return drawn(at / "both", *flags)


def test_the_pictures_are_those_of_the_merged_cascade(at, plain, both):
    flags = ["--lora", f"{at}/base.safetensors:0.5", "--lora", f"{at}/relay.safetensors"]
    lora_merge.main(["--checkpoint", "scenes", *flags, "--out", str(at / "merged")])
    sample.main(
        ["--checkpoint", str(at / "merged"), "--prompt", PROMPT, "--out", str(at / "of_merged")]
    )
    (file,) = (at / "of_merged").glob("00_*.png")
    assert (np.asarray(Image.open(file)) == both).all()
    assert (plain != both).mean() > 0.03


def test_a_weight_of_0_is_the_base_bit_for_bit(at, plain):
    flags = ["--lora", f"{at}/base.safetensors:0", "--lora", f"{at}/relay.safetensors:-0.0"]
    assert (drawn(at / "zero", *flags) == plain).all()
    loras = applied_to(parse_all(flags[1::2]), DESCRIPTION)
    ours, theirs = loras.change(load("scenes")).params, load("scenes").params
    for (path, a), (_, b) in zip(walk(ours), walk(theirs), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), path


def test_a_picture_says_which_adapters_drew_it_and_is_drawn_again_with_them(at, both):
    (file,) = (at / "both").glob("00_*.png")
    loras = read_drawing(file).checkpoint.loras
    assert [(one["file"], one["stage"], one["weight"]) for one in loras] == [
        ("base.safetensors", "base", 0.5),
        ("relay.safetensors", "relay", 1.0),
    ]
    text = Image.open(file).text["parameters"]
    assert f'Lora hashes: "base.safetensors: {loras[0]["sha256"][:12]}, relay.' in text
    again = ["--checkpoint", "scenes", "--from-png", str(file), "--out", str(at / "again")]
    with pytest.raises(InputError, match=r"was drawn with --lora base=base.safetensors:0.5 --lora"):
        sample.main(again)
    flags = ["--lora", f"{at}/base.safetensors:0.5", "--lora", f"{at}/relay.safetensors"]
    sample.main([*again, *flags])
    (made,) = (at / "again").glob("00_*.png")
    assert (np.asarray(Image.open(made)) == both).all()
    (plain,) = (at / "plain").glob("00_*.png")
    with pytest.raises(InputError, match="was drawn with no --lora"):
        sample.main([*again[:2], "--from-png", str(plain), *again[4:], *flags])


@pytest.mark.usefixtures("plain")  # which compiles
def test_a_resumed_directory_takes_the_same_adapters_alone(at, tmp_path):
    (tmp_path / "p.txt").write_text(f"{PROMPT}\n")
    argv = ["--checkpoint", "scenes", "--prompts", str(tmp_path / "p.txt")]
    argv += ["--out", str(tmp_path / "out")]
    flags = ["--lora", f"{at}/base.safetensors:0.5"]
    sample.main([*argv, *flags])
    plan = json.loads((tmp_path / "out" / "plan.json").read_text())
    assert [one["weight"] for one in plan["loras"]] == [0.5]
    sample.main([*argv, *flags])
    for other in ([], ["--lora", f"{at}/base.safetensors:0.6"]):
        with pytest.raises(InputError, match="made with other values of loras"):
            sample.main([*argv, *other])


def test_upscaling_takes_the_relay_s_alone(at, tmp_path):
    Image.new("RGB", (32, 32), (200, 30, 30)).save(tmp_path / "a.png")
    argv = ["--checkpoint", "scenes", "--image", str(tmp_path / "a.png"), "--prompt", PROMPT]
    made = {}
    for name, flags in {"with": ["--lora", f"{at}/relay.safetensors"], "without": []}.items():
        upscale.main([*argv, "--out", str(tmp_path / name), *flags])
        made[name] = Image.open(tmp_path / name / "a_x2.png")
    assert (np.asarray(made["with"]) != np.asarray(made["without"])).mean() > 0.05
    record = png_record.read_record(tmp_path / "with" / "a_x2.png")
    assert [one["stage"] for one in record["checkpoint"]["loras"]] == ["relay"]
    flags = ["--lora", f"{at}/base.safetensors"]
    with pytest.raises(InputError, match="is for the base, which does not draw these pictures"):
        upscale.main([*argv, "--out", str(tmp_path / "no"), *flags])
    assert not (tmp_path / "no").exists() or not list((tmp_path / "no").glob("*.png"))


def test_from_python_an_adapter_is_in_the_weights(at, both, tmp_path):
    given = [f"{at}/base.safetensors:0.5", at / "relay.safetensors"]
    cascade = cv3jax.Cascade.load("scenes", lora=given)
    made = cascade(PROMPT, seed=0)
    assert (np.asarray(made[0]) == both).all()
    (path,) = made.save(tmp_path)
    assert len(read_drawing(path).checkpoint.loras) == 2
    with pytest.raises(ValueError, match="merge it with cv3jax lora merge"):
        cascade.save(tmp_path / "copy")
    with pytest.raises(ValueError, match="there is no such file"):
        cv3jax.Cascade.load("scenes", lora="nope.safetensors")
    with pytest.raises(ValueError, match="give a path, text such as"):
        cv3jax.Cascade.load("scenes", lora=3)


def test_an_adapter_without_a_stage_is_the_base_s_unless_it_fits_the_relay_alone(at, tmp_path):
    for name in STAGES:
        ours = adapters.of_stage(STAGES[name], every=9)
        bare = formats.Adapter(ours.layers)
        formats.write(tmp_path / f"{name}.safetensors", bare, "kohya")
    (base,) = applied_to([parse(f"{tmp_path}/base.safetensors")], DESCRIPTION).applied
    assert base.stage == "base"
    (forced,) = applied_to([parse(f"relay={tmp_path}/relay.safetensors:2")], DESCRIPTION).applied
    assert (forced.stage, forced.weight) == ("relay", 2.0)
    same_sizes = STAGES["base"].model == STAGES["relay"].model
    (relay,) = applied_to([parse(f"{tmp_path}/relay.safetensors")], DESCRIPTION).applied
    assert relay.stage == ("base" if same_sizes else "relay")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("nope.safetensors", "there is no such file; give FILE, FILE:WEIGHT or STAGE=FILE:WEIGHT"),
        ("{at}/base.safetensors:nan", r"the weight must be -100\.\.100"),
        ("{at}/base.safetensors:1e9", r"the weight must be -100\.\.100"),
        ("{at}/base.safetensors:big", "'big' is no number; a weight .* as in base.safetensors:0.8"),
        ("{at}/bsae.safetensors", "no such file; the nearest one is .*/base.safetensors"),
        ("vae={at}/base.safetensors", "there is no such file"),
        ("", "there is no such file"),
    ],
)
def test_wrong_values_are_a_line(text, said, at):
    with pytest.raises(InputError, match=said):
        parse(text.format(at=at))


def test_a_name_with_a_colon_is_a_name_where_there_is_such_a_file(tmp_path):
    odd = tmp_path / "base=a:0.5"
    odd.write_bytes(b"x")
    assert parse(str(odd)).path == odd
    assert parse(f"{odd}:0.25")[:3] == (odd, 0.25, None)
    with pytest.raises(InputError, match="at most 16"):
        parse_all([str(odd)] * 17)
