"""A small autoencoder for rendered scenes (and emoji), trained in minutes on two cores.

No download.

    cv3jax data scenes --out runs/scenes --num 12000 --seed 0
    cv3jax train --config=scenes_vae --workdir runs/vae --config.data.path=runs/scenes

`:long` is the same model trained as long as it pays, a minute of one GPU with 16 cores beside it:
that of the packaged cascades (docs/start/scenes.md).
"""

import functools

from cv3jax.configs import common


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = common.vae_config()
    c.batch.size = c.batch.per_device = 4
    c.data.update(
        {
            "image_size": 64,
            "min_side": 64,
            "zoom": (1.0, 2.0),
            "zoom_levels": 2,
            "crop_grid": 8,
            "flip": False,
            "threads": 2,
        }
    )
    c.model.update(
        {
            "channels": 64,
            "channel_mult": (1, 1),
            "res_blocks": 1,
            "z_channels": 8,
            "patch": 4,
            "groups": 0,
            "mid_attention": False,
            "dtype": "float32",
        }
    )
    c.objective.kl_weight = 2e-4
    c.optim.update(
        {
            "kind": "muon",
            "lr": 3e-3,
            "warmup": 50,
            "decay": "linear",
            "final": 0.0,
            "weight_decay": 0.0,
            "ema": 0.99,
        }
    )
    c.train.update(
        {"steps": 4000, "log_every": 50, "save_every": 1000, "preview_every": 1000, "keep": 2}
    )
    c.train.update({"eval_every": 1000, "eval_records": 64})
    return common.select(
        c, variant, long=functools.partial(common.long, batch=64, steps=8_000, lr=3e-3, warmup=200)
    )


def sweep():
    """Yield learning rates and weights of the KL divergence, one run each."""
    for lr in (1e-3, 3e-3):
        for kl in (2e-5, 2e-4):
            yield {"optim.lr": lr, "objective.kl_weight": kl}
