"""Stage 2 of the paper: base at 512², 200k updates of 2048 images, from stage 1's EMA.

    cv3jax train --config=base_512 --workdir WORK/base_512 --config.data.path=DATA \\
        --config.cascade=WORK/base_256 --config.init_from=WORK/base_256
"""

from cv3jax.configs import common


def get_config(variant: str = ""):
    c = common.stage_config()
    c.data.image_size = c.data.min_side = 512
    c.train.steps = 200_000
    return common.select(c, variant)
