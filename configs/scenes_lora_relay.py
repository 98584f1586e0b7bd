r"""An adapter of rank 8 for a small relay, 64² → 128², beside one for its base.

It takes minutes on two cores. Trains on quarters of the pictures.

    cv3jax finetune --config=scenes_lora_relay --pictures PICTURES --checkpoint runs/tuned \
        --workdir runs/tuned_relay
"""

from cv3jax.configs import common, scenes_relay


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = scenes_relay.get_config()
    c = common.adapt(c, rank=8, lr=2e-3, steps=400)
    c.batch.size = c.batch.per_device = 16
    # enlarged pictures would teach a relay to blur; a fixed crop, to see the middle alone
    c.data.update({"min_side": 128, "random_crop": True, "threads": 2})
    c.lora.targets = "all"
    c.optim.update({"kind": "adamw", "decay": "linear"})
    c.sample.steps = 10
    return common.select(c, variant)
