"""The base distilled: 32 guided steps become 16, 8 and 4 that are told w.

From stage 3's EMA; its rounds are kept, 8 steps in the second.

    cv3jax distill --config=distill_base --workdir WORK/fast_base --config.data.path=FINE \\
        --config.cascade=WORK/relay

The paper gives neither lengths nor rates; these are ours, and not run at this size
(docs/guides/distillation.md).
"""

from cv3jax.configs import base_aesthetic, common


def get_config(variant: str = ""):
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
