r"""Stage 1 of the paper: base at 256², 600k updates of 2048 images, from scratch.

    cv3jax train --config=base_256 --workdir WORK/base_256 --config.data.path=DATA \
        --config.cascade=RELEASED

RELEASED brings the autoencoder and T5-XXL. The UNet has 2.9 B parameters. On 256 devices an update
is one microbatch of 8 images each.

Cost on v5e:16x16 (256 chips), by `cv3jax compile`: 5.4 GB of 16 a chip; 9.5 PFLOP an update with
its encoders; 14,066 chip-hours at the roofline, 17,878 at 40 % MFU.

Expect a checkpoint and previews of four prompts every 2,000 updates. The recipe was compiled at
this size and has not been run.
"""

from cv3jax.configs import common


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = common.stage_config()
    c.data.min_side = c.data.image_size
    return common.select(c, variant)


def sweep():
    """Yield learning rates and weightings of the loss, one run each."""
    for lr in (5e-5, 1e-4, 2e-4):
        for weighting in ("eps", "min_snr"):
            yield {"optim.lr": lr, "objective.weighting": weighting}
