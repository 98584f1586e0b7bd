r"""Stage 2 of the paper: base at 512², 200k updates of 2048 images, from stage 1's EMA.

    cv3jax train --config=base_512 --workdir WORK/base_512 --config.data.path=DATA \
        --config.cascade=WORK/base_256 --config.init_from=WORK/base_256

Cost on v5e:16x16 (256 chips), by `cv3jax compile`: 6.6 GB of 16 a chip; 19.9 PFLOP an update with
its encoders; 5,624 chip-hours at the roofline, 12,271 at 40 % MFU.

Expect a checkpoint and previews of four prompts every 2,000 updates. The recipe was compiled at
this size and has not been run.
"""

from cv3jax.configs import common


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = common.stage_config()
    c.data.image_size = c.data.min_side = 512
    c.train.steps = 200_000
    return common.select(c, variant)
