"""Stage 1 of the paper: base at 256², 600k updates of 2048 images, from scratch.

    cv3jax train --config=base_256 --workdir WORK/base_256 --config.data.path=DATA \\
        --config.cascade=RELEASED

RELEASED brings the autoencoder and T5-XXL. Expect 2.9 B parameters; on 256 devices a batch is one
microbatch of 8 images each.
"""

from cv3jax.configs import common


def get_config(variant: str = ""):
    c = common.stage_config()
    c.data.min_side = c.data.image_size
    return common.select(c, variant)
