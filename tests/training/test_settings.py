"""A recipe's settings refuse by name what no stage could run with, and keep what was given."""

import dataclasses

import pytest
from ml_collections import ConfigDict

from cv3jax import recipes
from cv3jax.diffusion.sampler import FORMS
from cv3jax.training.parsing import parse_stage, section
from cv3jax.training.settings import BatchSettings, StageSettings
from data_pipeline.io.errors import InputError


def load(stage: str, *fields: str) -> ConfigDict:
    """The tiny recipe of a stage."""
    return recipes.load(f"scenes_{stage}:tiny", [f"--config.{field}" for field in fields])


@pytest.mark.parametrize(
    ("stage", "field", "said"),
    [
        (
            "vae",
            "data.threads=-1",
            "config.data.threads = -1: must be 0 (none beside the training's own) or more",
        ),
        (
            "vae",
            "data.zoom=(0.5, 1.0)",
            "config.data.zoom = (0.5, 1.0): must be two numbers, 1 <= low <= high <= 8",
        ),
        (
            "vae",
            "data.zoom=(2.0, 1.0)",
            "config.data.zoom = (2.0, 1.0): must be two numbers, 1 <= low <= high <= 8",
        ),
        (
            "vae",
            "model.channel_mult=()",
            "config.model.channel_mult = (): must be one factor or more, each at least 1",
        ),
        ("vae", "model.channels=0", "config.model.channels = 0: must be at least 1"),
        ("vae", "model.dtype=float99", "config.model.dtype = float99: must be float32 or bfloat16"),
        ("vae", "optim.momentum=1.0", "config.optim.momentum = 1.0: must be 0..1, without 1"),
        ("vae", "optim.warmup=-1", "config.optim.warmup = -1: must be 0 or more"),
        ("vae", "optim.lr=-1.0", "config.optim.lr = -1.0: must be a positive number"),
        ("vae", "optim.lr=nan", "config.optim.lr = nan: must be a positive number"),
        ("vae", "optim.clip=0.0", "config.optim.clip = 0.0: must be a positive number"),
        ("vae", "optim.ema=1.5", "config.optim.ema = 1.5: must be 0..1, without 1"),
        ("vae", "train.steps=0", "config.train.steps = 0: must be at least 1"),
        (
            "vae",
            "train.log_every=-1",
            "config.train.log_every = -1: must be 0 (only at the end) or more",
        ),
        ("vae", "train.keep=0", "config.train.keep = 0: must be at least 1"),
        ("vae", "train.keep_every=-1", "config.train.keep_every = -1: must be 0 (none) or more"),
        (
            "base",
            "train.export_every=-5",
            "config.train.export_every = -5: must be 0 (only at the end) or more",
        ),
        (
            "relay",
            "train.skip_nonfinite=-1",
            "config.train.skip_nonfinite = -1: must be 0 (none) or more",
        ),
        (
            "vae",
            "train.skip_spike=8.0",
            "config.train.skip_spike = 8.0: must be 0 (none), or above 1 with"
            " train.skip_nonfinite, the most in a row, above 0",
        ),
        ("vae", "seed=-1", "config.seed = -1: must be 0..2147483647"),
        ("vae", "stage=encoder", "config.stage = 'encoder': one of vae, base, relay"),
        ("base", "vae.dtype=float99", "config.vae.dtype = float99: must be float32 or bfloat16"),
        ("base", "text.dtype=float99", "config.text.dtype = float99: must be float32 or bfloat16"),
        ("base", "text.vocab=0", "config.text.vocab = 0: must be at least 1"),
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
            "config.data.zoom = ('a', 'b'): must be two numbers, 1 <= low <= high <= 8",
        ),
        (
            "base",
            "objective.prediction=x0",
            "config.objective.prediction = x0: must be one of eps, v",
        ),
        (
            "base",
            "objective.weighting=flat",
            "config.objective.weighting = flat: must be one of eps, v, min_snr, truncated,"
            " root_snr",
        ),
        (
            "base",
            "objective.text_drop=1.5",
            "config.objective.text_drop = 1.5: must be a probability, 0..1",
        ),
        (
            "base",
            "sample.form=poem",
            f"config.sample.form = poem: must be one of {', '.join(FORMS)}",
        ),
        (
            "base",
            "sample.prompts=(1,)",
            "config.sample.prompts = (1,): must be prompts for the previews, or none (): the first"
            " captions of the data",
        ),
        ("base", "data.recaption=2.0", "config.data.recaption = 2.0: must be a probability, 0..1"),
        (
            "base",
            "stage=vae",
            "config.objective has no kl_weight, perceptual_weight; start it from"
            " cv3jax.configs.common",
        ),
        ("vae", "optim.final=1.5", "config.optim.final = 1.5: must be 0..1, a share of lr"),
        ("vae", "optim.weight_decay=-0.1", "config.optim.weight_decay = -0.1: must be 0 or more"),
        ("vae", "optim.b1=1.0", "config.optim.b1 = 1.0: must be 0..1, without 1"),
        ("vae", "optim.b2=1.0", "config.optim.b2 = 1.0: must be 0..1, without 1"),
        (
            "vae",
            "train.save_every=-1",
            "config.train.save_every = -1: must be 0 (only at the end) or more",
        ),
        (
            "vae",
            "train.preview_every=-1",
            "config.train.preview_every = -1: must be 0 (only at the end) or more",
        ),
        (
            "vae",
            "data.workers=-1",
            "config.data.workers = -1: must be 0 (threads alone) or more processes",
        ),
        ("vae", "data.max_damaged=-1", "config.data.max_damaged = -1: must be 0 or more"),
        (
            "base",
            "model.remat=some",
            "config.model.remat = some: must be one of none, block, full, offload",
        ),
        ("base", "objective.gamma=0.0", "config.objective.gamma = 0.0: must be a positive number"),
        (
            "base",
            "objective.offset_noise=-0.1",
            "config.objective.offset_noise = -0.1: must be 0 or more",
        ),
        ("vae", "objective.kl_weight=-1.0", "config.objective.kl_weight = -1.0: must be 0 or more"),
        (
            "vae",
            "objective.perceptual_weight=-1.0",
            "config.objective.perceptual_weight = -1.0: must be 0 or more",
        ),
        ("base", "sample.guidance=-1.0", "config.sample.guidance = -1.0: must be 0 or more"),
        ("base", "sample.eta=1.5", "config.sample.eta = 1.5: must be 0..1"),
        (
            "vae",
            "profile.steps=10",
            "config.profile.steps = 10: must be first and last step to trace, such as 10:15, or"
            " empty",
        ),
    ],
)
def test_a_value_that_cannot_be_is_refused_by_name(stage, field, said):
    with pytest.raises(InputError) as e:
        parse_stage(load(stage, field))
    assert str(e.value) == said


def leaves(value, prefix: str = "") -> dict:
    """Dotted name → value of every field of settings, but the recipe's JSON and the model."""
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
    """A field of a recipe that nothing reads would be a flag that does nothing."""
    for name in ("base_256", "relay_1024", "scenes_vae"):
        config, known = recipes.load(name, []), leaves(parse_stage(recipes.load(name, [])))
        for section_name, values in config.items():
            if isinstance(values, ConfigDict) and section_name != "model":
                assert {f"{section_name}.{key}" for key in values} <= known.keys()


def test_a_section_without_a_needed_field_is_refused_and_others_have_defaults():
    with pytest.raises(InputError, match=r"config\.batch has no per_device; start it from"):
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
        _ = parse_stage(load("relay", "data.buckets=wide")).data.sizes
