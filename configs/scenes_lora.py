r"""An adapter of rank 8 that teaches a small base of scenes a new word.

It takes minutes on two cores.

    cv3jax finetune --config=scenes_lora --pictures runs/hexagons --checkpoint scenes_teacher \
        --workdir runs/hexagon
"""

from cv3jax.configs import common, scenes_base


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = scenes_base.get_config()
    c = common.adapt(c, rank=8, lr=2e-3, steps=800)
    c.batch.size = c.batch.per_device = 16
    c.data.threads = 2
    c.lora.targets = "all"
    c.optim.update({"kind": "adamw", "decay": "linear", "warmup": 50})
    c.sample.update({"steps": 20, "guidance": 1.75})
    return common.select(c, variant)
