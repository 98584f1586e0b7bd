"""What every recipe starts from.

Fields are documented here, once (those of distillations in common_distillation.py); a recipe
changes what makes it itself.
"""

from collections.abc import Callable

from ml_collections import ConfigDict, config_dict

# for the recipes, which take them from here
from cv3jax.configs.common_distillation import distil as distil
from cv3jax.configs.common_distillation import distil_tiny as distil_tiny
from cv3jax.configs.common_distillation import long_distil as long_distil
from cv3jax.configs.common_distillation import looks as looks


def stage_config() -> ConfigDict:
    """A base stage at the released sizes; every diffusion recipe starts here."""
    c = ConfigDict()
    c.stage = "base"  # what the result is called in the cascade: base or relay
    c.seed = 0
    # checkpoint whose frozen parts (vae, t5, base) this stage stands on
    c.cascade = config_dict.placeholder(str)
    # checkpoint whose EMA the parameters start from; none: from scratch
    c.init_from = config_dict.placeholder(str)
    c.init_part = "base"  # which part of it

    c.mesh = mesh()
    # the UNet's: xla, cudnn (GPU), splash (TPU), heads (CPU), or what suits devices and sizes
    c.attention = "auto"
    # images an update; images a device and microbatch
    c.batch = ConfigDict({"size": 2048, "per_device": 8})
    # image_size: of what a step sees. The short side is resized to image_size × zoom, zoom drawn
    # between its two numbers (zoom_levels: only so many of them), and a square cropped, its corner
    # on crop_grid pixels. What the stage draws has image_size × the least zoom.
    # path: a record directory, or several with their shares of what is drawn: A:3,B:1. buckets:
    # none; "64", sizes of about image_size² whose sides are multiples of that; or
    # "512x512,448x576", height first: each batch has one of them, and each is a compiled step.
    # threads prepare batches, in this process, or with workers in as many others, so many in each.
    # min_side: pictures with a shorter side of fewer pixels are left out; none: they are enlarged.
    # max_damaged: how many records that have become unreadable are passed over: scale/loader.md
    c.data = ConfigDict(
        {
            "path": config_dict.placeholder(str),
            "image_size": 256,
            "zoom": (1.0, 1.0),
            "zoom_levels": 0,
            "crop_grid": 1,
            "random_crop": True,
            "flip": False,
            "recaption": 0.95,
            "threads": 16,
            "workers": 0,
            "min_side": config_dict.placeholder(int),
            "max_damaged": 100,
            "buckets": config_dict.placeholder(str),
            # path's feature cache: latents, text features or both (docs/guides/encode.md)
            "cache": config_dict.placeholder(str),
        }
    )
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
    # the text encoder where `cascade` brings none: a frozen random T5 and a tokenizer of the data's
    # own captions
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
    c.schedule = ConfigDict({"blur": "none", "start": 1000})
    c.objective = ConfigDict(
        {
            "prediction": "eps",
            "weighting": "eps",
            "gamma": 5.0,
            "norm": "l2",
            "offset_noise": 0.0,
            "text_drop": 0.1,
        }
    )
    c.optim = optim(lr=1e-4, warmup=1000)
    c.train = train(steps=600_000)
    # "10:15": a profiler's trace of these steps, in WORKDIR/profile, for TensorBoard
    c.profile = ConfigDict({"steps": ""})
    # prompts: of the previews; (): the first captions of the data
    c.sample = ConfigDict(
        {
            "steps": 50,
            "guidance": 7.5,
            "eta": 0.0,
            "form": "released",
            "prompts": (
                "a red bicycle leaning against an old brick wall",
                "a lighthouse on a cliff at dusk",
                "a bowl of ramen, studio light",
                "an astronaut riding a horse",
            ),
        }
    )
    return c


def mesh() -> ConfigDict:
    """Over how many devices each axis splits. -1 takes what is left; data and fsdp both -1: fsdp
    takes one ring of the devices.

    slices: how many groups the devices are, joined by a slower network than within; -1: as many as
    they say they are.
    """
    return ConfigDict({"data": -1, "fsdp": -1, "tensor": 1, "context": 1, "slices": -1})


def optim(*, lr: float, warmup: int) -> ConfigDict:
    # kind: adamw, adafactor or muon. b1 is adam's, b2 adam's and adafactor's, momentum adafactor's
    # (0: none, which saves its memory).
    # moments: what their statistics are stored in, float32 or bfloat16
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
            "ema": 0.9999,
        }
    )


def train(*, steps: int) -> ConfigDict:
    # keep: how many of the newest checkpoints; keep_every: and one of every so many steps for good.
    # export_every: writes WORKDIR/cascade on the way. skip_nonfinite: how many updates in a row may
    # be skipped, where loss or gradient is not finite (0: the first ends the run); skip_spike: or
    # the gradient so many times as long as the last ones' (0: at any length). docs/scale/faults.md
    return ConfigDict(
        {
            "steps": steps,
            "log_every": 50,
            "save_every": 2000,
            "preview_every": 2000,
            "keep": 3,
            "keep_every": 0,
            "export_every": 0,
            "skip_nonfinite": 0,
            "skip_spike": 0.0,
        }
    )


def vae_config() -> ConfigDict:
    """Autoencoder training at SDXL's sizes."""
    c = ConfigDict()
    c.stage = "vae"
    c.seed = 0
    c.cascade = config_dict.placeholder(str)
    c.init_from = config_dict.placeholder(str)
    c.init_part = "vae"
    c.mesh = mesh()
    c.batch = ConfigDict({"size": 256, "per_device": 4})
    c.data = ConfigDict(
        {
            "path": config_dict.placeholder(str),
            "image_size": 256,
            "zoom": (1.0, 1.0),
            "zoom_levels": 0,
            "crop_grid": 1,
            "random_crop": True,
            "flip": True,
            "threads": 16,
            "workers": 0,
            "min_side": config_dict.placeholder(int),
            "max_damaged": 100,
            "buckets": config_dict.placeholder(str),
        }
    )
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


def select(c: ConfigDict, variant: str, **others: Callable[[ConfigDict], ConfigDict]) -> ConfigDict:
    """The recipe itself, its `:tiny` variant, or one of `others`, name → what makes it.

    Raises ValueError on another one.
    """
    variants = {"tiny": tiny, **others}
    if variant and variant not in variants:
        raise ValueError(
            f"unknown variant {variant!r}; there is"
            f" {' and '.join(variants) if others else 'only tiny'}"
        )
    return variants[variant](c) if variant else c


def long(c: ConfigDict, *, batch: int, steps: int, lr: float, warmup: int) -> ConfigDict:
    """A recipe for two cores as one for a GPU with 16 of them: the same model and losses, of large
    batches, as long as it pays.

    Batches are prepared in processes, one batch at a time in each: with small pictures Python
    itself is the bottleneck. Those 12 leave cores for the training itself.
    """
    c.batch.size = c.batch.per_device = batch
    c.data.update({"threads": 1, "workers": 12})
    c.optim.update({"lr": lr, "warmup": warmup, "ema": 0.999})
    c.train.update({"steps": steps, "log_every": 100, "save_every": 2000, "preview_every": 2000})
    return c


def tiny(c: ConfigDict) -> ConfigDict:
    """The same recipe at a size that compiles in seconds: what the tests train.

    Kinds of step, losses and data stay.
    """
    c.batch.size, c.batch.per_device = 8, 1
    c.data.image_size, c.data.threads, c.data.min_side = 32, 1, None
    c.optim.warmup = 2
    c.train.update({"steps": 4, "log_every": 2, "save_every": 2, "preview_every": 0, "keep": 2})
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
