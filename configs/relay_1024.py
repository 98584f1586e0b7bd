r"""Stage 5 of the paper: relay at 1024², 20k updates of 1024 images, start 500, from stage 4's EMA.

    cv3jax train --config=relay_1024 --workdir WORK/relay --config.data.path=DATA \
        --config.cascade=WORK/base --config.init_from=WORK/sr

Cost on v5e:16x16 (256 chips), by `cv3jax compile`: 13.8 GB of 16 a chip; 38.6 PFLOP an update with
its encoders; 1,524 chip-hours at the roofline, 2,401 at 40 % MFU.

Expect ten previews: images of the data at half size and enlarged, what the relay makes of them in
10 steps, and the originals. The recipe was compiled at this size and has not been run.
"""

from cv3jax.configs import common, sr_1024


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = sr_1024.get_config()
    c.init_part = "relay"
    c.schedule.update({"blur": "linear", "start": 500})
    c.objective.offset_noise = 0.05
    c.train.steps = 20_000
    c.sample.steps = 10
    return common.select(c, variant)


def sweep():
    """Yield the paper's ablation of the start point, one run each."""
    for start in (200, 400, 500, 600, 800):
        yield {"schedule.start": start}
