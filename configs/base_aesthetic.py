"""Stage 3 of the paper: aesthetic fine-tuning at 512², 10k updates of 1024 images of the finest
data, from stage 2's EMA.

    cv3jax train --config=base_aesthetic --workdir WORK/base --config.data.path=FINE \\
        --config.cascade=WORK/base_512 --config.init_from=WORK/base_512
"""

from cv3jax.configs import base_512, common


def get_config(variant: str = ""):
    c = base_512.get_config()
    c.batch.size = 1024
    c.optim.lr, c.optim.warmup = 2e-5, 200
    c.train.steps = 10_000
    return common.select(c, variant)
