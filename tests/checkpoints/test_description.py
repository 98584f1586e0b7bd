"""Test reading and writing of cascade.json."""

import dataclasses
import json

import described
import jax.numpy as jnp
import pytest

from cv3jax import recipes
from cv3jax.cascade.parts import UNDESCRIBED
from cv3jax.cascade.sampler_settings import AS_DESCRIBED, SamplerSettings
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints import description_fields as fields
from cv3jax.checkpoints.description import (
    CascadeDescription,
    Distilled,
    TextDescription,
    VaeDescription,
)
from cv3jax.checkpoints.description_checks import wrong_model
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from data_pipeline.io.errors import InputError

WHOLE = CascadeDescription(
    VaeDescription({"channel_mult": [1, 2], "patch": 4}, 0.5),
    TextDescription({"channels": 32}, 24),
    {"relay": described.stage("relay"), "base": described.stage(guidance=2)},
)


def written(description: CascadeDescription) -> dict:
    """Return the content of the file of a description."""
    return json.loads(json.dumps(description.to_json()))


@pytest.mark.parametrize(
    "description",
    [
        WHOLE,
        CascadeDescription(WHOLE.vae),
        dataclasses.replace(WHOLE, vae=None, t5=None),
        WHOLE.with_stage("base", described.stage(steps=2, distilled=Distilled(2, (1.0, 4.0)))),
        WHOLE.with_stage("base", described.stage(steps=2, distilled=Distilled(2, None), blur=None)),
        WHOLE.with_stage("base", described.stage(zero_snr=True, guidance_rescale=0.7)),
    ],
)
def test_a_description_comes_back(description, tmp_path):
    cascades.write_cascade(tmp_path, description)
    assert cascades.read_cascade(tmp_path) == (tmp_path, description)


def test_what_is_written_is_as_it_was_read(tmp_path):
    value = written(WHOLE.with_stage("base", described.stage(**described.distilled_to(2))))
    (tmp_path / "cascade.json").write_text(json.dumps(value))
    description = cascades.read_cascade(tmp_path)[1]
    assert written(description) == value
    cascades.write_cascade(tmp_path, description)
    text = (tmp_path / "cascade.json").read_text()
    value["sha256"] = cascades.digest_of(value)
    assert text == json.dumps(value, indent=2, sort_keys=True) + "\n"


@pytest.mark.parametrize(
    ("table", "model"),
    [(fields.UNET, UNet), (fields.AUTOENCODER, Autoencoder), (fields.T5, T5Encoder)],
)
def test_the_table_has_the_fields_and_the_defaults_of_the_networks(table, model):
    own = {field.name: field.default for field in dataclasses.fields(model)}
    own["dtype"] = jnp.dtype(own["dtype"]).name
    assert {name: field.default for name, field in table.items()} == {
        name: value for name, value in own.items() if name not in UNDESCRIBED
    }
    assert all(field.rule.fits(field.default) for field in table.values())


def test_the_parts_are_in_one_order():
    assert WHOLE.parts == ("vae", "t5", "base", "relay")
    assert dataclasses.replace(WHOLE, t5=None, stages={}).parts == ("vae",)
    assert [WHOLE.section(part) for part in ("t5", "base")] == [WHOLE.t5, WHOLE.stages["base"]]


def test_a_stage_of_format_1_stands_beside_its_text_encoder():
    value = {**written(WHOLE), "format": 1}
    del value["stages"]["base"]["text_width"]
    assert CascadeDescription.from_json(value, "a") == dataclasses.replace(WHOLE, format=1)
    del value["t5"]
    with pytest.raises(
        InputError, match=r"^a is damaged: the field 'text_width' of base is missing$"
    ):
        CascadeDescription.from_json(value, "a")


@pytest.mark.parametrize("variant", ["", ":tiny"])
@pytest.mark.parametrize("name", recipes.recipes())
def test_the_networks_of_every_recipe_can_be_described(name, variant):
    config = recipes.to_json(recipes.load(name + variant, []))
    config = config.get("stage", config) if isinstance(config.get("stage"), dict) else config
    part = "vae" if config["stage"] == "vae" else "base"
    assert wrong_model(config["model"], part) is None
    assert wrong_model({**config["model"], "channels": 0}, part)
    if "text" in config:
        own = {field: config["text"][field] for field in fields.T5 if field in config["text"]}
        assert wrong_model(own, "t5") is None


@pytest.mark.parametrize(
    ("place", "change", "said"),
    [
        (
            (),
            {"format": 3},
            "is not a cascade description of format 1 or 2; give a checkpoint that this"
            " version can read",
        ),
        ((), {"stages": []}, "is damaged: stages may be base and relay only"),
        ((), {"stages": {"../x": {}}}, "is damaged: stages may be base and relay only, not '../x'"),
        ((), {"vae": None}, "is damaged: vae is None, but must be an object"),
        (("vae",), {"scale": "1"}, "is damaged: scale of vae is '1', but must be 1e-06..1e+06"),
        (("t5",), {"length": 2.5}, "is damaged: length of t5 is 2.5, but must be 2..4096"),
        (
            ("stages", "base"),
            {"steps": None},
            "is damaged: steps of base is None, but must be 1..1000",
        ),
        (
            ("stages", "base"),
            {"distilled": {}},
            "is damaged: the field 'steps' of the distillation of base is missing",
        ),
        (
            ("stages", "base"),
            {"distilled": {"steps": 2, "w": [1.0]}},
            "is damaged: w of the distillation of base is [1.0], but must be two numbers, 0 <= low"
            " <= high <= 100, or none",
        ),
        (
            ("stages", "relay"),
            {"zero_snr": True},
            "is damaged: zero_snr of relay is True, but must be false for a relay, which starts"
            " from a picture",
        ),
        (
            ("stages", "base"),
            {"zero_snr": True, "prediction": "eps"},
            "is damaged: prediction of base is 'eps', but must be v with zero_snr: eps says nothing"
            " of x0 there",
        ),
        (
            ("stages", "base"),
            {"guidance_rescale": 0.5, "model": {"w_dim": 8}},
            "is damaged: guidance_rescale of base is 0.5, but must be 0 for a stage that needs no"
            " guidance",
        ),
        (
            ("stages", "relay"),
            {"text_width": 8},
            "is damaged: the relay reads text features of width 8, but t5 makes width 32",
        ),
    ],
)
def test_a_wrong_description_is_one_line(place, change, said):
    value = written(WHOLE)
    section = value
    for name in place:
        section = section[name]
    section.update(change)
    with pytest.raises(InputError) as e:
        CascadeDescription.from_json(value, "a/cascade.json")
    assert str(e.value) == f"a/cascade.json {said}"


def test_settings_say_what_a_stage_does_not():
    stage = described.stage(steps=4, guidance=1.5)
    assert AS_DESCRIBED.of(stage) == SamplerSettings(4, 1.5, 0.0, "released")
    assert SamplerSettings(2, form="paper").of(stage) == SamplerSettings(2, 1.5, 0.0, "paper")
    assert SamplerSettings(guidance=0.0).of(stage).guidance == 0.0
