"""Test folders of other models: their settings, what is refused before anything is loaded."""

import json

import pytest

from cv3jax.cascade.sizes import Size
from cv3jax.evaluation.baselines import folders, models
from data_pipeline.io.errors import InputError

PARTS = {
    "scheduler": ("diffusers", "EulerDiscreteScheduler"),
    "vae": ("diffusers", "AutoencoderKL"),
}
NETWORK = "diffusion_pytorch_model"


def network(place, *weights, **config):
    """Write the folder of a network with empty weights, which are not read here."""
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(config))
    for name in weights or (f"{NETWORK}.safetensors",):
        (place / name).write_bytes(b"")


def pipeline(place, name="StableDiffusionXLPipeline", *weights, **parts):
    """Write the folder of a pipeline with a UNet, a VAE and a scheduler."""
    given = PARTS | {"unet": ("diffusers", models.UNET), "image_encoder": (None, None)} | parts
    place.mkdir(parents=True)
    (place / "model_index.json").write_text(json.dumps({"_class_name": name, **given}))
    network(place / "unet", *weights, sample_size=16)
    network(place / "vae", *weights, block_out_channels=[4, 8, 8])
    (place / "scheduler").mkdir()
    (place / "scheduler" / "scheduler_config.json").write_text("{}")
    return place


@pytest.fixture
def named(tmp_path):
    """Return a directory of --models with all of them."""
    pipeline(tmp_path / "sdxl")
    network(tmp_path / "lcm-sdxl", _class_name=models.UNET)
    pipeline(tmp_path / "stable-cascade" / "prior", "StableCascadePriorPipeline")
    decoder = "StableCascadeDecoderPipeline"
    pipeline(tmp_path / "stable-cascade" / "decoder", decoder, vae=("wuerstchen", "PaellaVQModel"))
    return tmp_path


@pytest.mark.parametrize(
    ("name", "steps", "guidance", "count"),
    [
        ("sdxl", (50,), (5.0,), 1),
        ("stable-cascade", (20, 10), (4.0, 0.0), 2),
        ("lcm-sdxl", (4,), (8.0,), 2),
    ],
)
def test_a_named_model_has_the_settings_of_the_comparison(named, name, steps, guidance, count):
    found = models.open_model(name, named)
    assert found.stages == (steps, guidance)
    assert found.size == Size(1024, 1024)
    assert len(found.folders) == count
    other = models.open_model(name, named, Size(128, 256), tuple(range(1, len(steps) + 1)))
    assert (other.size, other.stages.steps[0]) == (Size(128, 256), 1)
    assert other.stages.guidance == guidance


def test_lcm_takes_its_own_unet_and_all_else_of_sdxl(named):
    first, unet = models.open_model("lcm-sdxl", named).folders
    assert first.path == named / "sdxl"
    assert not [file for file in first.files if file.parent.name == "unet"]
    assert unet.files == (
        named / "lcm-sdxl" / "config.json",
        named / "lcm-sdxl" / f"{NETWORK}.safetensors",
    )


def test_a_folder_has_the_size_of_its_networks_and_the_defaults_of_its_pipeline(tmp_path):
    found = models.open_model(str(pipeline(tmp_path / "own")), None)
    assert (found.name, found.kind) == ("own", "folder")
    assert found.size == Size(64, 64)  # 16 latents, doubled twice
    assert found.stages == ((None,), (None,))


def test_a_variant_is_taken_where_the_plain_files_are_not_there(tmp_path):
    plain, half = f"{NETWORK}.safetensors", f"{NETWORK}.fp16.safetensors"
    both = folders.open_pipeline(pipeline(tmp_path / "both", "A", plain, half), "it")
    assert both.variant is None
    assert {file.name for file in both.files} & {plain, half} == {plain}
    only = folders.open_pipeline(pipeline(tmp_path / "half", "A", half), "it")
    assert only.variant == "fp16"
    parts = [f"{NETWORK}.bf16-0000{i}-of-00002.safetensors" for i in (1, 2)]
    split = folders.open_pipeline(pipeline(tmp_path / "split", "A", *parts), "it")
    assert split.variant == "bf16"
    assert {*parts} <= {file.name for file in split.files}


def test_the_fingerprint_is_of_what_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("cv3jax.weights.digests.check_header", lambda path: None)
    place = pipeline(tmp_path / "own")
    before = folders.fingerprint((folders.open_pipeline(place, "it"),))
    (place / "README.md").write_text("words")
    assert folders.fingerprint((folders.open_pipeline(place, "it"),)) == before
    (place / "vae" / f"{NETWORK}.safetensors").write_bytes(b"1")
    assert folders.fingerprint((folders.open_pipeline(place, "it"),)) != before


@pytest.mark.parametrize(
    ("index", "said"),
    [
        ({"_class_name": ["mine", "Mine"]}, "no class of diffusers; code in a folder is not run"),
        ({"_class_name": "../x"}, "code in a folder is not run"),
        (
            {"_class_name": "A", "unet": ["mine", "UNet"]},
            "unet is a mine.UNet, which is in neither",
        ),
        ({"_class_name": "A", "unet": ["os", "system"]}, "code in a folder is not run"),
        ({"_class_name": "A", "../vae": ["diffusers", "X"]}, "code in a folder is not run"),
        ({"_class_name": "A", "text": ["diffusers", "X"]}, "names text, which is not there"),
        ([], "is no JSON object"),
    ],
)
def test_code_and_missing_parts_are_refused(tmp_path, index, said):
    place = pipeline(tmp_path / "own")
    (place / "model_index.json").write_text(json.dumps(index))
    with pytest.raises(InputError) as e:
        folders.open_pipeline(place, "it")
    assert said in str(e.value)
    assert "\n" not in str(e.value)


def test_pickles_alone_are_refused(tmp_path):
    place = pipeline(tmp_path / "own", "A", f"{NETWORK}.bin")
    with pytest.raises(InputError, match=r"no \.safetensors: .*\.bin is a pickle, which may run"):
        folders.open_pipeline(place, "it")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("sdxl", {"models": None}, "--model sdxl: give --models with a directory that has sdxl/"),
        ("nope", {}, "--model nope: give sdxl, stable-cascade, lcm-sdxl, or the folder of a"),
        ("sdxl", {"steps": (4, 1)}, "--steps 4,1: sdxl has 1 stages; give one value for each"),
        ("stable-cascade", {"guidance": (4.0,)}, "--guidance 4: stable-cascade has 2 stages"),
    ],
)
def test_a_wrong_model_or_setting_is_refused(named, name, given, said):
    with pytest.raises(InputError, match=said):
        models.open_model(name, **{"models": named, **given})


def test_another_class_under_the_name_is_refused(tmp_path):
    pipeline(tmp_path / "sdxl", "StableDiffusionPipeline")
    with pytest.raises(InputError, match="is a StableDiffusionPipeline; give a StableDiffusionXL"):
        models.open_model("sdxl", tmp_path)
    pipeline(tmp_path / "other" / "sdxl")
    with pytest.raises(InputError, match="lcm-sdxl is not there; get the folder of latent-consis"):
        models.open_model("lcm-sdxl", tmp_path / "other")
