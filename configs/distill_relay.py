r"""The relay distilled: 8 guided steps from T_r = 500 become 4, 2 and 1, guidance-conditioned.

    cv3jax distill --config=distill_relay --workdir WORK/fast --config.data.path=FINE \
        --config.cascade=WORK/fast_base

It starts from stage 5's EMA. Each round's weights are kept.

Cost on v5e:16x16 (256 chips), by `cv3jax compile` (docs/guides/distillation.md): 9.7 GB of 16 a
chip; 55.5 PFLOP an update in round 1 and 41.0 later, beside its encoders' 12.1; at least 4,073
chip-hours for all 40,000 updates, by the roofline.

Expect four evaluations in the longest round, and in quality.md the distance of each round from the
full sampler. The paper gives neither lengths nor rates; these are ours. The recipe was compiled at
this size and has not been run.

`:start200` ends where the released 1-step relay does, which starts at index 199. A teacher of T_r =
500 has seen no drift to `low` that is complete at t = 200, so it is fine-tuned with that start
first:

    cv3jax train --config=relay_1024 --workdir WORK/relay_200 --config.data.path=DATA \
        --config.cascade=WORK/fast_base --config.init_from=WORK/relay --config.schedule.start=200
    cv3jax distill --config=distill_relay:start200 --workdir WORK/fast --config.data.path=FINE \
        --config.cascade=WORK/relay_200
"""

from cv3jax.configs import common, relay_1024


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = relay_1024.get_config("tiny" if variant == "tiny" else "")
    if variant == "tiny":
        return common.distil_tiny(c)
    rounds = (
        (4, 10_000, 1e-5, 1.0, 12.0),
        (2, 10_000, 1e-5, 1.0, 12.0),
        (1, 20_000, 1e-5, 1.0, 12.0),
    )
    c = common.distil(c, rounds=rounds, w=(1.0, 4.0, 7.5, 12.0), warmup=500)
    return common.select(c, variant, start200=start200)


def start200(c):
    """Return the recipe with the released start of one step."""
    c.schedule.start = 200
    return c
