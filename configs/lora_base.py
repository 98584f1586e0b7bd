r"""An adapter of rank 16 for the base at 512²: a style or a thing from a few pictures, on one GPU.

    cv3jax finetune --config=lora_base --pictures PICTURES --checkpoint WORK/cascade \
        --workdir WORK/mine

The base is frozen in bfloat16. The learning rate, the rank and the batch are those that adapters
for SDXL are usually trained with, a model of the same size; they were not tuned here.

Cost on rtx4090:1x1x1, by `cv3jax compile` (docs/scale/compile.md): 17.6 GB of 24, with the
encoders.

Expect a preview of four prompts eight times, where they fit beside the training, and the adapter in
WORK/mine/lora. The recipe was compiled at this size and has not been run.
"""

from cv3jax.configs import base_512, common


def get_config(variant: str = ""):
    """Return the recipe, or a variant of it."""
    c = common.adapt(base_512.get_config(), rank=16, lr=1e-4, steps=2000)
    return common.select(c, variant)
