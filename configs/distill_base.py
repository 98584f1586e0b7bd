r"""The base distilled: 32 guided steps become 16, 8 and 4 that are guidance-conditioned.

    cv3jax distill --config=distill_base --workdir WORK/fast_base --config.data.path=FINE \
        --config.cascade=WORK/relay

It starts from stage 3's EMA. Each round's weights are kept, 8 steps in the second.

Cost on v5e:16x16 (256 chips), by `cv3jax compile` (docs/guides/distillation.md): 6.4 GB of 16 a
chip; 14.3 PFLOP an update in round 1 and 10.5 later, beside its encoders' 3.3; at least 2,423
chip-hours for all 80,000 updates, by the roofline.

Expect four evaluations in the longest round, and in quality.md the distance of each round from the
full sampler. The paper gives neither lengths nor rates; these are ours. The recipe was compiled at
this size and has not been run.
"""

from cv3jax.configs import base_aesthetic, common


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = base_aesthetic.get_config("tiny" if variant == "tiny" else "")
    if variant == "tiny":
        return common.distil_tiny(c)
    rounds = (
        (16, 20_000, 1e-5, 1.0, 12.0),
        (8, 20_000, 1e-5, 1.0, 12.0),
        (4, 40_000, 1e-5, 1.0, 12.0),
    )
    c = common.distil(c, rounds=rounds, w=(1.0, 4.0, 7.5, 12.0), warmup=500)
    return common.select(c, variant)


def sweep():
    """Yield ranges of the guidance weight, numbers of rounds and targets, one run each."""
    for most in (8.0, 12.0):
        three = tuple((steps, 20_000, 1e-5, 1.0, most) for steps in (16, 8, 4))
        for rounds in (three, three[1:]):
            for target in ("x0", "x0_root_snr"):
                yield {
                    "distill.rounds": rounds,
                    "distill.w": (1.0, 4.0, most),
                    "distill.target": target,
                }
