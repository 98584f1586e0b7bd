"""Test what `cv3jax convert` takes from elsewhere than tensors.

The tests cover the official configurations, a UNet alone, and the place of the result.
"""

import golden_models
import pytest
from official_files import write_official
from released_files import (
    FLAGS,
    converted,
)

from cv3jax.checkpoints import cascades
from cv3jax.weights import convert
from data_pipeline.io import locks
from data_pipeline.io.errors import InputError


def test_the_official_configurations_say_the_rest(tmp_path, capsys):
    """Both have the flaws of the released ones, which are skipped with a notice."""
    base = write_official(
        tmp_path / "base.yaml",
        "base",
        model__first_stage_config__params__ddconfig__in_channels="3f",
    )
    relay = write_official(tmp_path / "relay.yaml", "relay", args={"sampling_image_size": 64})
    folder = golden_models.files("micro")
    unet = folder / "unet.safetensors"
    out = converted(
        tmp_path / "out",
        "--base",
        unet,
        "--relay",
        unet,
        "--vae",
        folder / "vae.safetensors",
        "--t5",
        folder / "t5",
        "--config",
        base,
        "--config",
        relay,
        "--guidance",
        "7,8",
    )
    said = capsys.readouterr().err
    assert "base.yaml: ddconfig.in_channels is '3f', but 3 is used" in said
    assert (
        "relay.yaml: args.relay_model is not True, but the sampler is a relay's, so the model is"
        " taken for a relay" in said
    )
    assert "heads of 16 channels (base.yaml)" in said
    description = cascades.read_cascade(out)[1]
    settings = {
        name: {key: getattr(stage, key) for key in convert.SETTINGS}
        for name, stage in description.stages.items()
    }
    assert settings == {
        "base": {"image_size": 32, "steps": 4, "start": 1000, "guidance": 7.0, "prediction": "eps"},
        "relay": {"image_size": 64, "steps": 1, "start": 200, "guidance": 8.0, "prediction": "eps"},
    }
    assert description.vae.scale == 0.25
    assert description.t5.length == 77


def test_a_unet_alone_is_the_stage_that_its_configuration_or_start_says(tmp_path):
    unet = golden_models.files("micro") / "unet.safetensors"
    cases = {
        "a": ("--config", write_official(tmp_path / "r.yaml", "relay")),
        "b": (*FLAGS, "--relay-start", "300"),
        "c": FLAGS,
    }
    made = {
        name: converted(tmp_path / name, "--unet", unet, *flags) for name, flags in cases.items()
    }
    stages = {name: cascades.read_cascade(out)[1].stages for name, out in made.items()}
    assert {name: [*stage] for name, stage in stages.items()} == {
        "a": ["relay"],
        "b": ["relay"],
        "c": ["base"],
    }
    assert stages["b"]["relay"].start == 300


def test_what_a_killed_conversion_left_is_replaced(tmp_path):
    vae, partial = golden_models.files("micro") / "vae.safetensors", tmp_path / "out.partial"
    (partial / "base").mkdir(parents=True)
    (partial / "base" / "half").write_text("half")
    # somebody's own
    with pytest.raises(InputError, match=r"out\.partial exists and holds 'base'"):
        converted(tmp_path / "out", "--vae", vae)
    (partial / locks.NAME).touch()
    out = converted(tmp_path / "out", "--vae", vae)
    assert sorted(path.name for path in out.iterdir()) == ["cascade.json", "vae"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_an_out_that_is_a_link_is_made_where_it_points(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "place")
    converted(tmp_path / "link", "--vae", golden_models.files("micro") / "vae.safetensors")
    assert (tmp_path / "place" / "cascade.json").is_file()
    assert (tmp_path / "link").is_symlink()


def test_encoders_alone_name_what_is_next(tmp_path, capsys):
    folder = golden_models.files("micro")
    vae, t5 = ("--vae", folder / "vae.safetensors"), ("--t5", folder / "t5")
    out = converted(tmp_path / "a b", *vae, *t5)
    assert (
        f"--workdir WORKDIR --config.data.path=DATA --config.cascade='{out}'\n"
        in capsys.readouterr().err
    )
    for given, missing in ((vae, "t5"), (t5, "vae")):
        out = converted(tmp_path / missing, *given)
        line = f"{out} has no {missing}: to train a stage, give --vae and --t5 in one command\n"
        assert line in capsys.readouterr().err
    converted(tmp_path / "stage", "--unet", folder / "unet.safetensors", *FLAGS)
    assert "to train a stage" not in capsys.readouterr().err
