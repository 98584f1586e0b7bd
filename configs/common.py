"""What every recipe starts from: the value of each field, of which a recipe changes some.

What a field means and must be is in the typed settings, which `cv3jax config NAME` prints.
"""

from collections.abc import Callable

from ml_collections import ConfigDict, config_dict

# for the recipes, which take them from here
from cv3jax.configs.common_distillation import distil as distil
from cv3jax.configs.common_distillation import distil_tiny as distil_tiny
from cv3jax.configs.common_distillation import long_distil as long_distil
from cv3jax.configs.common_distillation import looks as looks
from cv3jax.configs.common_lora import adapt as adapt


def stage_config() -> ConfigDict:
    """Return a base stage at the released sizes; every diffusion recipe starts here."""
    c = ConfigDict()
    c.stage = "base"
    c.seed = 0
    c.cascade = config_dict.placeholder(str)
    c.init_from = config_dict.placeholder(str)
    c.init_part = "base"
    c.mesh = mesh()
    c.attention = "auto"
    c.batch = ConfigDict({"size": 2048, "per_device": 8})
    c.data = data()
    c.data.recaption, c.data.cache = 0.95, config_dict.placeholder(str)
    c.model = ConfigDict(
        {
            "channels": 320,
            "channel_mult": (1, 2, 4),
            "res_blocks": 2,
            "depth": (0, 2, 10),
            "mid_depth": 10,
            "head_dim": 64,
            "w_dim": 0,
            "groups": 32,
            "remat": "block",
            "dtype": "bfloat16",
        }
    )
    c.text = ConfigDict(
        {
            "random": False,
            "length": 225,
            "vocab": 2048,
            "channels": 128,
            "layers": 2,
            "heads": 4,
            "head_dim": 32,
            "ff": 256,
            "dtype": "bfloat16",
        }
    )
    c.vae = ConfigDict({"dtype": "bfloat16"})
    c.schedule = ConfigDict({"blur": "none", "start": 1000, "zero_snr": False})
    c.objective = ConfigDict(
        {
            "prediction": "eps",
            "weighting": "eps",
            "gamma": 5.0,
            "norm": "l2",
            "huber_c": 0.1,
            "huber_schedule": "constant",
            "offset_noise": 0.0,
            "timesteps": "uniform",
            "timestep_mean": 0.0,
            "timestep_spread": 1.0,
            "masked": False,
            "text_drop": 0.1,
        }
    )
    c.optim = optim(lr=1e-4, warmup=1000)
    c.train = train(steps=600_000)
    c.profile = ConfigDict({"steps": ""})
    c.sample = ConfigDict(
        {
            "steps": 50,
            "guidance": 7.5,
            "eta": 0.0,
            "form": "released",
            "guidance_rescale": 0.0,
            "prompts": (
                "a red bicycle leaning against an old brick wall",
                "a lighthouse on a cliff at dusk",
                "a bowl of ramen, studio light",
                "an astronaut riding a horse",
            ),
        }
    )
    return c


def data() -> ConfigDict:
    """Return how records are read: squares of 256 pixels, in a global shuffle."""
    return ConfigDict(
        {
            "path": config_dict.placeholder(str),
            "image_size": 256,
            "zoom": (1.0, 1.0),
            "zoom_levels": 0,
            "crop_grid": 1,
            "random_crop": True,
            "flip": False,
            "threads": 16,
            "workers": 0,
            "min_side": config_dict.placeholder(int),
            "max_damaged": 100,
            "buckets": config_dict.placeholder(str),
            "shuffle": "global",
            "cache_dir": config_dict.placeholder(str),
            "cache_gb": 100.0,
        }
    )


def mesh() -> ConfigDict:
    """Return a mesh of all devices: fsdp takes one ring of them, data what is left."""
    return ConfigDict({"data": -1, "fsdp": -1, "tensor": 1, "context": 1, "slices": -1})


def optim(*, lr: float, warmup: int) -> ConfigDict:
    """Return AdamW of a constant learning rate."""
    return ConfigDict(
        {
            "kind": "adamw",
            "lr": lr,
            "warmup": warmup,
            "decay": "constant",
            "final": 0.0,
            "weight_decay": 0.01,
            "clip": 1.0,
            "b1": 0.9,
            "b2": 0.95,
            "momentum": 0.0,
            "moments": "float32",
            "turns": 1,
            "renew": 1,
            "ema": 0.9999,
            "posthoc": 0,
            "freeze": "",
            "rates": "",
        }
    )


def train(*, steps: int) -> ConfigDict:
    """Return a run of so many updates, with its lines of metrics, checkpoints and previews."""
    return ConfigDict(
        {
            "steps": steps,
            "log_every": 50,
            "save_every": 2000,
            "preview_every": 2000,
            "keep": 3,
            "keep_every": 0,
            "export_every": 0,
            "local_every": 0,
            "local_dir": config_dict.placeholder(str),
            "skip_nonfinite": 0,
            "skip_spike": 0.0,
            "module_norms": False,
            "wandb": "",
            "eval_every": 2000,
            "eval_data": config_dict.placeholder(str),
            "eval_records": 256,
            "eval_metrics": "",
            "eval_pictures": 16,
            "eval_prompts": "",
            "eval_weights": config_dict.placeholder(str),
            "best": "",
        }
    )


def vae_config() -> ConfigDict:
    """Return the training of an autoencoder of SDXL's sizes."""
    c = ConfigDict()
    c.stage = "vae"
    c.seed = 0
    c.cascade = config_dict.placeholder(str)
    c.init_from = config_dict.placeholder(str)
    c.init_part = "vae"
    c.mesh = mesh()
    c.batch = ConfigDict({"size": 256, "per_device": 4})
    c.data = data()
    c.data.flip = True
    c.model = ConfigDict(
        {
            "channels": 128,
            "channel_mult": (1, 2, 4, 4),
            "res_blocks": 2,
            "z_channels": 4,
            "patch": 1,
            "groups": 32,
            "mid_attention": True,
            "dtype": "bfloat16",
        }
    )
    c.objective = ConfigDict(
        {"kl_weight": 1e-6, "perceptual_weight": 0.0, "perceptual": config_dict.placeholder(str)}
    )
    c.optim = optim(lr=1e-4, warmup=1000)
    c.train = train(steps=200_000)
    c.profile = ConfigDict({"steps": ""})
    return c


class UnknownVariantError(ValueError):
    """A recipe has no variant of that name. `known` are those that it has."""

    known: tuple[str, ...] = ()


def select(c: ConfigDict, variant: str, **others: Callable[[ConfigDict], ConfigDict]) -> ConfigDict:
    """Return the recipe itself, its `:tiny` variant, or one of `others`, name → what makes it.

    Raises UnknownVariantError on another one.
    """
    variants = {"tiny": tiny, **others}
    if variant and variant not in variants:
        error = UnknownVariantError(f"unknown variant {variant!r}; give {' or '.join(variants)}")
        error.known = tuple(variants)
        raise error
    return variants[variant](c) if variant else c


def long(c: ConfigDict, *, batch: int, steps: int, lr: float, warmup: int) -> ConfigDict:
    """Return a recipe for two cores as one for a GPU with 16 of them.

    Model and losses stay. Batches are large, and the run is as long as it pays.
    Batches are prepared in processes, one batch at a time in each: with small pictures Python
    itself is the bottleneck. Those 12 leave cores for the training itself.
    """
    c.batch.size = c.batch.per_device = batch
    c.data.update({"threads": 1, "workers": 12})
    c.optim.update({"lr": lr, "warmup": warmup, "ema": 0.999})
    c.train.update({"steps": steps, "log_every": 100, "save_every": 2000, "preview_every": 2000})
    c.train.update({"eval_every": 2000, "eval_records": 256})
    return c


def tiny(c: ConfigDict) -> ConfigDict:
    """Return the same recipe at a size that compiles in seconds: what the tests train.

    Kinds of step, losses and data stay.
    """
    c.batch.size, c.batch.per_device = 8, 1
    c.data.image_size, c.data.threads, c.data.min_side = 32, 1, None
    c.optim.warmup = 2
    c.train.update({"steps": 4, "log_every": 2, "save_every": 2, "preview_every": 0, "keep": 2})
    c.train.update({"eval_every": 0, "eval_records": 8, "eval_pictures": 2})
    if c.stage == "vae":
        c.model.update(
            {
                "channels": 8,
                "channel_mult": (1, 1),
                "res_blocks": 1,
                "patch": 4,
                "groups": 4,
                "dtype": "float32",
            }
        )
    else:
        c.model.update(
            {
                "channels": 16,
                "channel_mult": (1, 2),
                "res_blocks": 1,
                "depth": (0, 1),
                "mid_depth": 1,
                "head_dim": 16,
                "groups": 8,
                "dtype": "float32",
            }
        )
        c.text.update(
            {
                "random": True,
                "length": 24,
                "vocab": 256,
                "channels": 16,
                "layers": 1,
                "heads": 2,
                "head_dim": 8,
                "ff": 32,
                "dtype": "float32",
            }
        )
        c.vae.dtype = "float32"
        c.sample.steps = 2
    return c
