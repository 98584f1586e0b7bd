"""A user's own recipe: the smallest base stage, with the autoencoder before it and the distillation
after it as variants.
"""

from cv3jax.configs import common


def get_config(variant: str = ""):
    c = common.stage_config()
    c.batch.size = c.batch.per_device = 2
    c.data.update({"image_size": 32, "recaption": 0.0, "threads": 1})
    c.model.update({"channels": 4, "channel_mult": (1,), "res_blocks": 1, "depth": (1,)})
    c.model.update({"mid_depth": 1, "head_dim": 4, "groups": 2, "remat": "none"})
    c.model.dtype = c.text.dtype = c.vae.dtype = "float32"
    c.text.update({"random": True, "length": 8, "vocab": 64, "channels": 8, "layers": 1})
    c.text.update({"heads": 1, "head_dim": 8, "ff": 16})
    c.objective.update({"prediction": "v", "weighting": "v"})
    c.optim.update({"lr": 1e-3, "warmup": 1, "ema": 0.9})
    c.train.update({"steps": 2, "log_every": 1, "save_every": 2, "preview_every": 0, "keep": 1})
    c.sample.update({"steps": 2, "guidance": 2.0, "prompts": ("a red circle", "a blue star")})
    return common.select(c, variant, autoencoder=autoencoder, distilled=distilled)


def autoencoder(base):
    c = common.vae_config()
    c.batch, c.train = base.batch, base.train
    c.data.update({"image_size": 32, "flip": False, "threads": 1})
    c.model.update({"channels": 4, "channel_mult": (1,), "res_blocks": 1, "z_channels": 4})
    c.model.update({"patch": 4, "groups": 2, "mid_attention": False, "dtype": "float32"})
    c.optim.update({"lr": 1e-3, "warmup": 1, "ema": 0.9})
    return c


def distilled(base):
    rounds = ((1, 2, 1e-3, 1.0, 3.0),)
    c = common.distil(base, rounds=rounds, w=(1.0, 2.0), warmup=1)
    c.model.w_dim, c.train.preview_every, c.distill.diverged = 8, 0, 1e6
    return c
