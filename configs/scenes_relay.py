"""A small relay stage, 64² → 128², on rendered scenes, from the base stage's weights.

    cv3jax train --config=scenes_relay --workdir runs/relay --config.data.path=runs/scenes \\
        --config.cascade=runs/base --config.init_from=runs/base
"""

from cv3jax.configs import common, scenes_base


def get_config(variant: str = ""):
    c = scenes_base.get_config()
    c.stage = "relay"
    c.data.image_size = 128
    c.batch.size = c.batch.per_device = 8
    # 16×16 latents: the noise of start 500 leaves nothing of a layout this small (DESIGN: 150 was right)
    c.schedule.update({"blur": "linear", "start": 150})
    c.objective.offset_noise = 0.05
    c.optim.update({"lr": 2e-3, "warmup": 20})
    c.train.update({"steps": 130, "save_every": 50})
    c.sample.update({"steps": 6, "guidance": 1.5})
    return common.select(c, variant)
