"""Test that settings refuse by name what no stage can use, and keep all given values."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from cv3jax import recipes
from cv3jax.diffusion import FORMS
from cv3jax.training.parsing import parse_stage, section
from cv3jax.training.settings import BatchSettings, StageSettings
from data_pipeline.io.errors import InputError


def load(stage: str, *fields: str) -> ConfigDict:
    """Return the tiny recipe of a stage."""
    return recipes.load(f"scenes_{stage}:tiny", [f"--config.{field}" for field in fields])


@pytest.mark.parametrize(
    ("stage", "field", "said"),
    [
        ("vae", "data.threads=-1", "config.data.threads = -1: must be at least 0"),
        (
            "vae",
            "data.zoom=(0.5, 1.0)",
            "config.data.zoom = (0.5, 1.0): must be two numbers, 1 <= low <= high <= 8",
        ),
        (
            "base",
            "data.zoom=2.0",
            "config.data.zoom = (2.0,): must be two numbers, 1 <= low <= high <= 8",
        ),
        (
            "relay",
            "data.zoom=(1e999, 1e999)",
            "config.data.zoom = (inf, inf): must be two numbers, 1 <= low <= high <= 8",
        ),
        (
            "vae",
            "data.zoom=('a', 'b')",
            "config.data.zoom = ('a', 'b'): must be of type tuple of float (two numbers, 1 <="
            " low <= high <= 8)",
        ),
        ("vae", "data.zoom_levels=1", "config.data.zoom_levels = 1: must be 0, or at least 2"),
        ("vae", "data.image_size=4", "config.data.image_size = 4: must be 8..8192"),
        (
            "vae",
            "data.min_side=-1",
            "config.data.min_side = -1: must be at least 0, or none",
        ),
        ("vae", "batch.size=0", "config.batch.size = 0: must be at least 1"),
        ("vae", "mesh.fsdp=0", "config.mesh.fsdp = 0: must be at least 1, or -1"),
        (
            "vae",
            "model.channel_mult=()",
            "config.model.channel_mult = (): must be 1..6 numbers, each 1..64",
        ),
        (
            "vae",
            "model.dtype=float99",
            "config.model.dtype = float99: must be one of float32, bfloat16",
        ),
        (
            "base",
            "model.remat=some",
            "config.model.remat = some: must be one of none, block, full, offload",
        ),
        ("vae", "optim.b1=1.0", "config.optim.b1 = 1.0: must be at least 0 and below 1"),
        ("vae", "optim.lr=-1.0", "config.optim.lr = -1.0: must be above 0"),
        ("vae", "optim.lr=nan", "config.optim.lr = nan: must be above 0"),
        (
            "vae",
            "optim.kind=sgdx",
            "config.optim.kind = sgdx: must be one of adamw, adafactor, muon",
        ),
        ("vae", "optim.final=1.5", "config.optim.final = 1.5: must be 0..1"),
        (
            "vae",
            "train.skip_spike=8.0",
            "config.train.skip_spike = 8.0: must be 0, or above 1 with train.skip_nonfinite above"
            " 0",
        ),
        ("vae", "train.skip_spike=1.0", "config.train.skip_spike = 1.0: must be 0, or above 1"),
        ("vae", "seed=-1", "config.seed = -1: must be 0..2147483647"),
        ("vae", "stage=encoder", "config.stage = encoder: must be one of vae, base, relay"),
        (
            "base",
            "attention=flash",
            "config.attention = flash: must be one of auto, xla, cudnn, splash, heads",
        ),
        (
            "base",
            "sample.form=poem",
            f"config.sample.form = poem: must be one of {', '.join(FORMS)}",
        ),
        (
            "base",
            "sample.prompts=(1,)",
            "config.sample.prompts = (1,): must be of type tuple of str (any number of texts)",
        ),
        ("base", "schedule.start=1001", "config.schedule.start = 1001: must be 1..1000"),
        (
            "base",
            "stage=vae",
            "config.objective has no kl_weight, perceptual_weight; begin the recipe with a"
            " config of cv3jax.configs.common",
        ),
        (
            "vae",
            "profile.steps=10",
            "config.profile.steps = 10: must be the first and the last step to trace, such as 10:15"
            ", or empty",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(stage, field, said):
    with pytest.raises(InputError) as e:
        parse_stage(load(stage, field))
    assert str(e.value) == said


def leaves(value, prefix: str = "") -> dict:
    """Return the values of all settings by dotted name, without the recipe's JSON and the model."""
    if not dataclasses.is_dataclass(value):
        return {prefix: value}
    out = {}
    for field in dataclasses.fields(value):
        if field.name not in ("json", "model"):
            name = f"{prefix}.{field.name}" if prefix else field.name
            out |= leaves(getattr(value, field.name), name)
    return out


@pytest.mark.parametrize("name", sorted(recipes.recipes()))
def test_every_field_is_the_recipe_s(name):
    config = recipes.load(name, [])
    settings = parse_stage(config)
    assert dict(settings.model) == dict(config.model)
    assert settings.json == recipes.to_json(config)
    there = 0
    for field, value in leaves(settings).items():
        *sections, last = field.split(".")
        of = config
        for section_name in sections:
            of = of.get(section_name, {})
        if last in of:
            given = of[last]
            assert value == (tuple(given) if isinstance(value, tuple) else given), field
            there += 1
    assert there > 30


def test_every_field_that_a_shipped_recipe_has_is_read():
    """A field that nothing reads would be a flag without effect."""
    for name in ("base_256", "relay_1024", "scenes_vae"):
        config, known = recipes.load(name, []), leaves(parse_stage(recipes.load(name, [])))
        for section_name, values in config.items():
            if isinstance(values, ConfigDict) and section_name != "model":
                assert {f"{section_name}.{key}" for key in values} <= known.keys()


def test_a_section_without_a_needed_field_is_refused_and_others_have_defaults():
    with pytest.raises(InputError, match=r"config\.batch has no per_device; begin the recipe"):
        section(BatchSettings, ConfigDict({"size": 8}), "batch")
    config = load("base")
    with config.unlocked():
        for field in ("workers", "max_damaged", "cache", "buckets"):  # written before they were
            del config.data[field]
        del config["profile"]
    settings = parse_stage(config)
    assert isinstance(settings, StageSettings)
    assert (settings.data.workers, settings.data.cache, settings.profile.steps) == (0, None, "")


def test_the_side_of_a_whole_picture_and_sizes_of_buckets():
    settings = parse_stage(load("relay", "data.zoom=(2.0, 2.0)", "data.buckets=32x32,32x64"))
    assert settings.relay
    assert settings.data.whole_side == 64
    assert settings.data.sizes == ((32, 32), (32, 64))
    with pytest.raises(InputError, match=r"config\.data\.buckets: 'wide'"):
        parse_stage(load("relay", "data.buckets=wide"))
