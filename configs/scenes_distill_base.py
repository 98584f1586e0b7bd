r"""The small base distilled: 16 guided steps become 8 and 4, guidance-conditioned.

It takes minutes on two cores.

    cv3jax distill --config=scenes_distill_base --workdir runs/fast_base \
        --config.data.path=runs/scenes --config.cascade=runs/relay

`:long` is for one GPU, of a base of `scenes_base:long`: 8 guided steps become 4 in one round of
17,000 large batches. It made the packaged cascade's (docs/start/scenes.md).
"""

from cv3jax.configs import common, scenes_base


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = scenes_base.get_config("tiny" if variant == "tiny" else "")
    if variant == "tiny":
        return common.distil_tiny(c)
    c.batch.size = c.batch.per_device = 16
    c.optim.turns, c.optim.renew = 4, 2  # muon's products would be a fifth of so small a step
    c.sample.steps = 20
    # of so few updates a student learns the middle of its range best: that is the w by which the
    # base is guided
    c = common.distil(
        c, rounds=((8, 500, 4e-4, 1.0, 2.0), (4, 800, 4e-4, 1.0, 2.0)), w=(1.0, 1.5, 2.0), warmup=10
    )
    c.distill.target = "x0_root_snr"
    c.train.eval_every = 0  # of so short a round an evaluation is a large part
    return common.select(c, variant, long=long)


def long(c):
    """Return the recipe in large batches for one GPU."""
    c.model.dtype, c.attention = "bfloat16", "xla"  # as scenes_base:long
    # one guided round: a second one taught by the first added its own error to the first's, and
    # took half of the time
    c.distill.rounds, c.distill.w = ((4, 17000, 1e-3, 1.0, 3.0),), (1.0, 1.5, 2.0, 3.0)
    c.sample.guidance = 1.75  # its teacher's
    return common.long_distil(c)


def sweep():
    """Yield ranges of the guidance weight, numbers of rounds and targets, one run each."""
    for most in (2.0, 3.0):
        two = tuple((steps, 500, 4e-4, 1.0, most) for steps in (8, 4))
        for rounds in (two, two[1:]):
            for target in ("x0", "x0_root_snr"):
                yield {"distill.rounds": rounds, "distill.w": (1.0, most), "distill.target": target}
