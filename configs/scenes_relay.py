r"""A small relay stage, 64² → 128², on rendered scenes, from the base stage's weights.

Trains on quarters of the pictures.

    cv3jax train --config=scenes_relay --workdir runs/relay --config.data.path=runs/scenes \
        --config.cascade=runs/base --config.init_from=runs/base

`:long` is the same model in large batches for one GPU with 16 cores beside it, from a base of
`scenes_base:long`: the packaged cascades' (docs/start/scenes.md).
"""

from ml_collections import ConfigDict

from cv3jax.configs import common, relay_1024, scenes_base


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = scenes_base.get_config()
    c.stage = "relay"
    # 64² of 128²: four times the captions of whole pictures for the same work
    c.data.update({"min_side": 128, "zoom": (2.0, 2.0), "crop_grid": 8})
    # 16×16 latents: the paper's 500 of 128×128, averaged over 8×8, is the noise of t = 42; from 100
    # shapes suffer
    c.schedule.update({"blur": "linear", "start": 40})
    # below σ = 0.45 all noise levels then count the same
    c.objective.update({"weighting": "min_snr", "offset_noise": 0.05})
    c.optim.update({"lr": 4e-3, "warmup": 20})
    c.train.update({"steps": 200, "save_every": 50, "preview_every": 100})
    c.train.eval_every = 0  # of so short a run an evaluation is a large part
    c.sample.update({"steps": 2, "guidance": 1.5})
    return common.select(c, variant, long=long)


def long(c: ConfigDict) -> ConfigDict:
    """Return the recipe in large batches for one GPU."""
    c.model.dtype, c.attention = "bfloat16", "xla"  # as scenes_base:long
    c.sample.steps = 10
    return common.long(c, batch=256, steps=2000, lr=4e-3, warmup=100)


def sweep():
    """Yield this recipe's start, the other blurs from it, and the paper's starts, one run each."""
    yield {"schedule.start": get_config().schedule.start}
    for blur in ("sigma", "exp"):
        yield {"schedule.blur": blur}
    yield from relay_1024.sweep()
