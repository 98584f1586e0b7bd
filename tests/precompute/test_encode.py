"""Test `cv3jax data encode`: the feature cache, equal bytes on any mesh, and refusals."""

import functools
import json
import re
import shutil
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import tiny_runs
from encode_runs import BATCH, COUNT, cache_of, config, contents, opened, records

from cv3jax import cli
from cv3jax.cascade.parts import build_model, load_params
from cv3jax.checkpoints import cascades
from cv3jax.commands import encode
from cv3jax.diffusion.conditioning import posteriors
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.vae import Autoencoder
from cv3jax.precompute import run as precomputing
from cv3jax.precompute import shard
from cv3jax.precompute.encoders import stored
from data_pipeline import cli as data_cli
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.places import mark
from data_pipeline.loading.crops import fit
from data_pipeline.records.feature_cache import open_cache, payload, read_identity
from data_pipeline.records.records import RecordWriter, open_records

ROOT = Path(__file__).parents[2]
run = functools.partial(precomputing.run, latents="float32", text="float32", batch=BATCH)


def test_a_feature_cache_has_what_the_encoders_make_of_each_record():
    ours, encoded = records(), opened("float32", "float32")
    assert (len(encoded), encoded.lengths) == (COUNT, ours.lengths)
    directory, description = cascades.read_cascade(tiny_runs.trained("base").workdir)
    params, tokenize = load_params(directory, description, ("vae", "t5"))
    vae, t5 = (
        build_model(kind, description.section(name).model)
        for kind, name in ((Autoencoder, "vae"), (T5Encoder, "t5"))
    )
    views = [fit(record["image"], 32, zoom=2.0, grid=8) for record in ours]
    image = np.stack([pixels for pixels, _ in views])
    wanted = jax.jit(
        lambda p, x: posteriors(x, lambda y: vae.apply({"params": p}, y, method="encode"), True)
    )(params["vae"], image)
    text = jax.jit(lambda p, tokens: t5.apply({"params": p}, tokens))
    captions, recaptions = (
        text(params["t5"], tokenize([r[name] for r in ours])) for name in ("caption", "recaption")
    )
    for i, (one, record) in enumerate(zip(encoded, ours, strict=True)):
        for name in ("key", "sha256", "caption", "recaption"):
            assert one[name] == record[name]
        np.testing.assert_array_equal(one["sizes"], views[i][1])
        assert one["latents"].keys() == wanted.keys() == {"mean", "dev", "low_mean", "low_dev"}
        for name, value in one["latents"].items():
            np.testing.assert_allclose(value, wanted[name][i], rtol=1e-4, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(one["text"]["text"], captions[i], rtol=1e-4, atol=1e-5)
        assert bool(one["recaption_text"]) == bool(record["recaption"])
        if record["recaption"]:
            np.testing.assert_allclose(
                one["recaption_text"]["text"], recaptions[i], rtol=1e-4, atol=1e-5
            )
    assert not np.allclose(captions[1], recaptions[1], rtol=1e-2)


def test_what_each_type_keeps():
    exact, rounded = opened("float32", "float32"), opened("float16", "bfloat16")
    for one, other in zip(exact, rounded, strict=True):
        for name, value in one["latents"].items():
            np.testing.assert_array_equal(other["latents"][name], value.astype(np.float16))
        np.testing.assert_array_equal(
            other["text"]["text"], one["text"]["text"].astype(ml_dtypes.bfloat16)
        )
    features = np.stack([one["text"]["text"] for one in exact])
    features[0, 0] = 0.0  # a token without any
    kept = jax.device_get(stored(jnp.asarray(features), "int8"))
    assert (kept["text"].dtype, kept["text_scale"].dtype) == (np.int8, np.float32)
    assert (
        np.abs(kept["text"]).max(axis=-1).tolist()
        == np.where(np.abs(features).max(axis=-1) > 0, 127, 0).tolist()
    )
    errors = np.abs(kept["text"] * kept["text_scale"][..., None] - features)
    assert (errors <= 0.5001 * kept["text_scale"][..., None]).all()


@pytest.mark.parametrize("mesh", [None, "data=2,fsdp=4"])
def test_any_mesh_leaves_the_bytes_of_one_device(mesh, tmp_path, monkeypatch):
    assert len(jax.local_devices()) == 8
    if mesh is None:
        monkeypatch.setattr(precomputing, "choose_mesh", lambda text, count: None)
    with tiny_runs.split_small():
        figures = run(config("relay"), tmp_path / "out", mesh=mesh)
    assert (figures["made"], figures["left"], figures["out"]) == (COUNT, 0, str(tmp_path / "out"))
    assert contents(tmp_path / "out") == contents(cache_of("float32", "float32"))
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize(
    ("stage", "fields", "options", "line"),
    [
        ("vae", (), {}, "the stage vae trains on the images themselves"),
        ("relay", ("cascade=",), {}, "--checkpoint is not given"),
        ("relay", ("cascade=VAE",), {}, "has no t5; give a cascade with a t5 .* or --text none"),
        (
            "relay",
            (),
            {"mesh": "context=8"},
            "--mesh context=8: encoders are sharded over data and fsdp only",
        ),
        (
            "relay",
            ("data.buckets=8",),
            {},
            r"config\.data\.buckets: a feature cache has one size",
        ),
        ("relay", ("data.image_size=36",), {}, r"image_size = 36 is not a multiple of 8"),
    ],
)
def test_what_cannot_be_encoded(stage, fields, options, line, tmp_path):
    fields = [field.replace("VAE", str(tiny_runs.trained("vae").workdir)) for field in fields]
    with pytest.raises(InputError, match=line):
        run(
            (tiny_runs.config if stage == "vae" else config)(stage, *fields),
            tmp_path / "out",
            **options,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (["--batch", "0"], r"--batch 0: must be 1\.\.65536"),
        (["--latents", "none", "--text", "none"], "nothing is left to encode"),
        (["--latents", "int8"], "invalid choice: 'int8'"),
        (
            ["--process-id", "2", "--num-processes", "2"],
            "--process-id 2, --num-processes 2: give both",
        ),
        (["--config.data.imagesize=3"], "imagesize"),
    ],
)
def test_flags_that_make_no_sense(flags, line, tmp_path):
    with pytest.raises(InputError, match=line):
        encode.main(
            [
                "--config=scenes_base:tiny",
                "--input",
                "d",
                "--checkpoint",
                "c",
                "--out",
                str(tmp_path / "out"),
                *flags,
            ]
        )
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_image_and_numbers_that_are_none_are_named(tmp_path, capsys):
    record = records()[0]
    with RecordWriter(tmp_path / "d", shards=1) as writer:
        writer.write({**record, "image": record["image"][:-200].replace(b"IDAT", b"IDAX")})
        writer.write(records()[1])
    given = [f"data.path={tmp_path / 'd'}", "data.max_damaged=0"]
    with pytest.raises(
        InputError, match=f"record {record['key']!r} of .*/d: .*; pack the data again without it"
    ):
        run(config("relay", *given), tmp_path / "out", text=None)
    figures = run(config("relay", given[0], "data.max_damaged=1"), tmp_path / "out", text=None)
    assert (figures["made"], figures["damaged"]) == (2, 1)
    assert f"record {record['key']!r} of {tmp_path}/d" in capsys.readouterr().err
    encoded = open_cache(tmp_path / "out", open_records(tmp_path / "d"))
    assert encoded[1]["key"] == records()[1]["key"]
    with pytest.raises(InputError, match="its image or caption was damaged when it was encoded"):
        encoded[0]
    out = {
        "latents": {"mean": np.zeros((1, 2)), "finite": np.array([False])},
        "text": {},
        "recaption": {},
    }
    with pytest.raises(
        InputError,
        match=f"record {record['key']!r} of d: there are infinite values or NaN among its latents",
    ):
        shard.write(None, [shard.Item(record, None, np.zeros(6), True)], out, name="d")


@pytest.mark.parametrize(("text", "count"), [("float32", 2), (None, 0)])
def test_captions_without_features_are_counted(text, count, tmp_path, monkeypatch, capsys):
    others = [["another"], [], ["one more", "and one"], None, "no list"]
    with RecordWriter(tmp_path / "d", shards=2) as writer:
        for i, each in enumerate(others):
            scores = {} if each is None else {"captions": each}
            writer.write({**records()[i], "scores": json.dumps(scores)})
    monkeypatch.setattr(precomputing, "load_encoders", lambda *_: blind(bool(text)))
    monkeypatch.setattr(shard, "start", lambda *_: {"latents": {}, "text": {}, "recaption": {}})
    figures = run(config("relay", f"data.path={tmp_path / 'd'}"), tmp_path / "out", text=text)
    assert (figures["made"], figures["several_captions"]) == (5, count)
    said = (
        f"{count} of 5 records have several captions, but the feature cache has text features of"
        " the first one"
    )
    assert (said in capsys.readouterr().err) == (count > 0)


def blind(text: bool) -> types.SimpleNamespace:
    """Return encoders that ignore their inputs."""
    view = (None, np.zeros(6, np.int32))
    return types.SimpleNamespace(
        width=BATCH, side=8, latents=True, text=text, view=lambda image: view
    )


def test_the_document_s_bytes_are_the_format_s():
    for latents, text in (("float32", "float32"), ("float16", "bfloat16")):
        identity, source = read_identity(cache_of(latents, text)), opened(latents, text)
        for one in source:
            stored_bytes = sum(
                x.nbytes
                for part in ("latents", "text", "recaption_text")
                for x in one[part].values()
            )
            assert stored_bytes == payload(identity, 1 + bool(one["recaption"]))
    said = (ROOT / "docs" / "guides" / "encode.md").read_text()
    rows = dict(
        re.findall(r"^\| (\d+², (?:base|relay)|of a caption[^|]*) \|(.*)\|$", said, re.MULTILINE)
    )
    assert len(rows) == 5
    for name, cells in rows.items():
        figures = [
            [int(n.replace(",", "")) for n in re.findall(r"[\d,]*\d", cell)]
            for cell in cells.split("|")
        ]
        assert figures == [[value] for value in table(name)], name


def table(name: str) -> list[int]:
    """Return the bytes an image of a row of guides/encode.md: float32, two bytes, int8 for text."""
    nothing = {"latents": None, "text": None}
    if name.startswith("of a caption"):
        count = 2 if "recaption" in name else 1
        return [
            payload({**nothing, "text": {"dtype": kind, "shape": [225, 4096]}}, count)
            for kind in ("float32", "bfloat16", "int8")
        ]
    side = int(re.search(r"(\d+)²", name)[1]) // 8
    latents = {"shape": [side, side, 4], "low": "relay" in name}
    return [
        payload({**nothing, "latents": {"dtype": kind, **latents}})
        for kind in ("float32", "float16")
    ]


def test_the_command_line_finds_it(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cv3jax", "data", "encode", "--help"])
    with pytest.raises(SystemExit) as e:
        cli.main()
    assert e.value.code == 0
    assert "example:\n  cv3jax data encode --config=relay_1024 --input" in capsys.readouterr().out
    assert " ".join(cli.usage().split()).count("data encode make latents and text") == 1
    assert "\n  encode " in data_cli.usage()


def test_figures_of_an_address_name_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CV3JAX_STORES", str(tmp_path))
    out = mark("s3://bucket/features") / "dataset"
    shutil.copytree(cache_of("float32", "float32"), out)
    assert run(config("relay"), out)["out"] == "s3://bucket/features"
    assert "s3://bucket/features has all" in capsys.readouterr().err
