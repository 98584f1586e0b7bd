r"""A small base stage at 64² on rendered scenes, behind a frozen random text encoder.

It takes minutes on two cores.

    cv3jax train --config=scenes_base --workdir runs/base --config.data.path=runs/scenes \
        --config.cascade=runs/vae

`:long` is the same model in large batches for one GPU with 16 cores beside it, behind an
autoencoder of `scenes_vae:long`: the packaged cascades' (docs/start/scenes.md).
"""

from ml_collections import ConfigDict

from cv3jax.configs import common


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = common.stage_config()
    c.batch.size = c.batch.per_device = 32
    c.data.update({"image_size": 64, "min_side": 64, "threads": 2})
    c.model.update(
        {
            "channels": 64,
            "channel_mult": (1, 2),
            "res_blocks": 1,
            "depth": (0, 1),
            "mid_depth": 1,
            "head_dim": 32,
            "groups": 16,
            "remat": "none",
            "dtype": "float32",
        }
    )
    c.text.update({"random": True, "length": 48, "vocab": 512, "dtype": "float32"})
    c.vae.dtype = "float32"
    c.objective.update({"prediction": "v", "weighting": "v"})
    c.optim.update(
        {
            "kind": "muon",
            "lr": 5e-3,
            "warmup": 50,
            "decay": "linear",
            "final": 0.0,
            "weight_decay": 0.0,
            "ema": 0.99,
        }
    )
    c.train.update(
        {"steps": 1300, "log_every": 25, "save_every": 200, "preview_every": 650, "keep": 2}
    )
    c.train.update({"eval_every": 600, "eval_records": 64})
    c.sample.update({"steps": 4, "guidance": 1.5, "prompts": ()})
    return common.select(c, variant, long=long)


def long(c: ConfigDict) -> ConfigDict:
    """Return the recipe in large batches for one GPU."""
    c.model.dtype = "bfloat16"
    c.attention = "xla"  # 16 positions: no kernel pays
    c.sample.steps, c.sample.guidance = 20, 1.75
    return common.long(c, batch=256, steps=4500, lr=5e-3, warmup=200)


def sweep():
    """Yield learning rates and weightings of the loss, one run each."""
    for lr in (2e-3, 5e-3, 1e-2):
        for weighting in ("v", "min_snr"):
            yield {"optim.lr": lr, "objective.weighting": weighting}
