r"""Stage 3 of the paper: base at 512² on the finest data, 10k updates of 1024, from stage 2's EMA.

    cv3jax train --config=base_aesthetic --workdir WORK/base --config.data.path=FINE \
        --config.cascade=WORK/base_512 --config.init_from=WORK/base_512

Cost on v5e:16x16 (256 chips), by `cv3jax compile`: 6.1 GB of 16 a chip; 9.9 PFLOP an update with
its encoders; 230 chip-hours at the roofline, 307 at 40 % MFU.

Expect five previews of four prompts, one every 2,000 updates. The recipe was compiled at this size
and has not been run.
"""

from cv3jax.configs import base_512, common


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = base_512.get_config()
    c.batch.size = 1024
    c.optim.lr, c.optim.warmup = 2e-5, 200
    c.train.steps = 10_000
    return common.select(c, variant)
