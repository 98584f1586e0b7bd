"""Stage 5 of the paper: relay fine-tuning at 1024², 20k updates of 1024 images, start 500 of 1000,
from stage 4's EMA.

    cv3jax train --config=relay_1024 --workdir WORK/relay --config.data.path=DATA \\
        --config.cascade=WORK/base --config.init_from=WORK/sr
"""

from cv3jax.configs import common, sr_1024


def get_config(variant: str = ""):
    c = sr_1024.get_config()
    c.init_part = "relay"
    c.schedule.update({"blur": "linear", "start": 500})
    c.objective.offset_noise = 0.05
    c.train.steps = 20_000
    c.sample.steps = 10
    return common.select(c, variant)


def sweep():
    """The paper's ablation of the start point, one run each."""
    for start in (200, 400, 500, 600, 800):
        yield {"schedule.start": start}
