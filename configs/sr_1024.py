r"""Stage 4 of the paper: base training at 1024², 100k updates of 1024 images, not yet a relay.

    cv3jax train --config=sr_1024 --workdir WORK/sr --config.data.path=DATA \
        --config.cascade=WORK/base --config.init_from=WORK/base_512

It starts from the EMA of the base at 512² before its aesthetic fine-tuning. The memory is that of
encoding images of 1024².

Cost on v5e:16x16 (256 chips), by `cv3jax compile`: 13.5 GB of 16 a chip; 33.6 PFLOP an update with
its encoders; 5,765 chip-hours at the roofline, 10,243 at 40 % MFU.

Expect previews of four prompts at 1024² every 2,000 updates; `relay_1024` makes a relay of it. The
recipe was compiled at this size and has not been run.
"""

from cv3jax.configs import common


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = common.stage_config()
    c.stage = "relay"  # the part it becomes, once relay_1024 has fine-tuned it
    c.data.image_size = c.data.min_side = 1024
    c.batch.size, c.batch.per_device = 1024, 4
    c.train.steps = 100_000
    return common.select(c, variant)


def sweep():
    """Yield learning rates and offsets of the noise, one run each."""
    for lr in (5e-5, 1e-4):
        for offset in (0.0, 0.05):
            yield {"optim.lr": lr, "objective.offset_noise": offset}
