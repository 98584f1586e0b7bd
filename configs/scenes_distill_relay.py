r"""The small relay distilled: 4 guided steps become 2 and 1, guidance-conditioned.

It takes minutes on two cores.

    cv3jax distill --config=scenes_distill_relay --workdir runs/fast \
        --config.data.path=runs/scenes --config.cascade=runs/fast_base

`:long` is for one GPU, of a relay of `scenes_relay:long`: the packaged cascade's
(docs/start/scenes.md).
"""

from cv3jax.configs import common, scenes_relay


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = scenes_relay.get_config("tiny" if variant == "tiny" else "")
    if variant == "tiny":
        return common.distil_tiny(c)
    c.batch.size = c.batch.per_device = 16
    c.optim.turns, c.optim.renew = 4, 2  # muon's products would be a fifth of so small a step
    c.sample.steps = 10
    c = common.distil(
        c, rounds=((2, 120, 5e-4, 1.0, 2.0), (1, 150, 5e-4, 1.0, 2.0)), w=(1.0, 1.5, 2.0), warmup=10
    )
    return common.select(c, variant, long=long)


def long(c):
    """Return the recipe in large batches for one GPU."""
    c.model.dtype, c.attention = "bfloat16", "xla"  # as scenes_base:long
    c.distill.rounds, c.distill.w = (
        ((2, 600, 1e-3, 1.0, 3.0), (1, 800, 1e-3, 1.0, 3.0)),
        (1.0, 1.5, 2.0, 3.0),
    )
    return common.long_distil(c)
