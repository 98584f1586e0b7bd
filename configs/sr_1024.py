"""Stage 4 of the paper: super-resolution at 1024², 100k updates of 1024 images, from the EMA of
the pretrained base at 512², before its aesthetic fine-tuning; not yet a relay.

    cv3jax train --config=sr_1024 --workdir WORK/sr --config.data.path=DATA \\
        --config.cascade=WORK/base --config.init_from=WORK/base_512
"""

from cv3jax.configs import common


def get_config(variant: str = ""):
    c = common.stage_config()
    c.stage = "relay"  # the part it becomes, once relay_1024 has fine-tuned it
    c.data.image_size = c.data.min_side = 1024
    c.batch.size, c.batch.per_device = 1024, 4
    c.train.steps = 100_000
    return common.select(c, variant)
