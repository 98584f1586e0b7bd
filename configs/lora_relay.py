r"""An adapter of rank 16 for the relay at 1024²: fine details, beside an adapter for the base.

    cv3jax finetune --config=lora_relay --pictures PICTURES --checkpoint WORK/cascade \
        --workdir WORK/mine_relay

The relay is frozen in bfloat16, and trained from the index from which it starts.

Cost on rtx4090:1x1x1, by `cv3jax compile` (docs/scale/compile.md): 18.1 GB of 24, with the
encoders.

Expect a preview of four prompts eight times, where they fit beside the training, and the adapter in
WORK/mine_relay/lora. The recipe was compiled at this size and has not been run.
"""

from cv3jax.configs import common, relay_1024


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = common.adapt(relay_1024.get_config(), rank=16, lr=1e-4, steps=2000)
    return common.select(c, variant)
