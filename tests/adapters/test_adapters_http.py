"""Test the adapters of `serve --lora-dir` over HTTP: requests, plans, and folders."""

import base64
import io
import json
import shutil

import adapters
import http_server
import pytest
import square_engine
from PIL import Image

from cv3jax.adapters import formats
from cv3jax.adapters.folder import read_folder
from cv3jax.checkpoints import cascades
from cv3jax.commands import serve
from cv3jax.serving.http import parameters
from cv3jax.serving.http.plan import Plan, plan_generation
from data_pipeline.io.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    at = tmp_path_factory.mktemp("loras")
    stages = cascades.read_cascade("scenes")[1].stages
    base = adapters.of_stage(stages["base"], every=20)
    formats.write(at / "teal.safetensors", base, "kohya")
    formats.write(at / "sharp", adapters.of_stage(stages["relay"], every=20), "peft")
    return at


@pytest.fixture(scope="module")
def model(folder):
    args = serve.parser().parse_args(["--checkpoint", "scenes", "--lora-dir", str(folder)])
    directory, known = cascades.read_cascade("scenes")
    return serve.model_of(args, directory, known, serve.adapters_of(args, known))


def ask(running, **fields):
    return running.ask("POST", "/v1/images/generations", {"prompt": "a star", **fields})


def test_a_request_names_adapters_and_its_picture_says_so(model, tmp_path):
    with http_server.running(tmp_path, model=model) as running:
        loras = [{"name": "teal", "weight": 0.5}, {"name": "sharp"}]
        answer = ask(running, seed=3, loras=loras)
        assert answer.status == 200, answer.body
        png = Image.open(io.BytesIO(base64.b64decode(answer.json["data"][0]["b64_json"])))
        record = json.loads(png.text["cv3jax"])["checkpoint"]["loras"]
        assert [(one["file"], one["stage"], one["weight"]) for one in record] == [
            ("teal.safetensors", "base", 0.5),
            ("sharp", "relay", 1.0),
        ]
        (order,) = [one for one in running.engine.submitted if one.seed == 3]
        assert order.loras == (("teal", 0.5), ("sharp", 1.0))
        known = running.ask("GET", "/v1/capabilities").json["loras"]
        assert known["teal"]["stage"] == "base"
        off = ask(running, seed=4, loras=[{"name": "teal", "weight": 0}])
        assert off.status == 200
        (order,) = [one for one in running.engine.submitted if one.seed == 4]
        assert order.loras == ()


@pytest.mark.parametrize(
    ("loras", "said"),
    [
        ([{"name": "nope"}], "this server has sharp, teal"),
        ("teal", "give a list of at most 16 objects"),
        ([{"name": "teal", "wieght": 1}], "give a list of at most 16 objects"),
        ([{"weight": 1}], "give a list of at most 16 objects"),
        ([{"name": "teal", "weight": 1e9}], "give a number in -100..100"),
        ([{"name": "teal"}, {"name": "teal"}], "'teal' is there twice"),
        ([{"name": "teal"}] * 17, "give a list of at most 16 objects"),
        ([{"name": 5}], "give a text"),
    ],
)
def test_wrong_adapters_are_refused(loras, said, model, tmp_path):
    with http_server.running(tmp_path, model=model) as running:
        answer = ask(running, loras=loras)
        assert answer.status == 400
        assert said in answer.json["error"]["message"]
        assert answer.json["error"]["param"] == "loras"


def test_a_plan_keeps_its_adapters_and_earlier_plans_have_none(model):
    given = {"prompt": "x", "loras": [{"name": "teal"}]}
    values = parameters.read(given, parameters.GENERATION)
    plan = plan_generation(values, model, square_engine.CHAINS)
    kept = json.loads(json.dumps(plan.to_json()))
    assert Plan.from_json(kept) == plan
    assert [one["sha256"] for one in plan.loras] == [model.loras["teal"]["sha256"]]
    del kept["loras"]
    assert Plan.from_json(kept).loras == ()


def test_a_folder_that_cannot_be_served_is_refused(folder, tmp_path, capsys):
    known = cascades.read_cascade("scenes")[1]
    assert [*read_folder(folder, known)] == ["sharp", "teal"]
    with pytest.raises(InputError, match="neither NAME"):
        read_folder(tmp_path, known)
    (tmp_path / "notes.txt").write_text("x")
    (tmp_path / "d" / "other").mkdir(parents=True)
    shutil.copy(folder / "teal.safetensors", tmp_path / "d" / "pytorch_lora_weights.safetensors")
    (tmp_path / "w" / "lora").mkdir(parents=True)
    shutil.copy(folder / "teal.safetensors", tmp_path / "w" / "lora" / "adapter.safetensors")
    capsys.readouterr()
    assert [*read_folder(tmp_path, known)] == ["d", "w"]
    assert capsys.readouterr().err.endswith("no adapter, and left out: notes.txt\n")
    formats.write(tmp_path / "a.safetensors", adapters.adapter(), "native")
    with pytest.raises(InputError, match=r"a.safetensors was made for another model"):
        read_folder(tmp_path, known)
