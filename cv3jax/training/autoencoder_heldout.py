"""The held-out figures of an autoencoder."""

from collections.abc import Callable
from typing import Any

import jax
from jax.sharding import PartitionSpec as P

from cv3jax.distributed.backend import waiting
from cv3jax.distributed.fsdp import Layout
from cv3jax.training.heldout import Batches, Chosen
from cv3jax.training.heldout_losses import NUMBER, SEED
from cv3jax.training.measures import HeldOut
from cv3jax.training.settings import StageSettings
from cv3jax.training.train_settings import HELD_OUT
from cv3jax.training.train_step import LossFn

BETTER = {"loss": "lower", "psnr": "higher", "kl": "lower", "perceptual": "lower"}


def autoencoder_held_out(
    settings: StageSettings, loss: LossFn, layout: Layout, frozen: Any, records: Chosen
) -> HeldOut:
    """Return the means over held-out pictures of the loss and of what it is made of.

    loss: (params, frozen, batch, keys [B]) → (loss, metrics). psnr is the mean over pictures of
    theirs, in dB.
    """
    with waiting(f"reading {len(records)} held-out records"):
        batches = Batches(settings, records, None, layout.mesh)
    program = held_out_program(loss, layout)
    names = [name for name in BETTER if name != "perceptual" or settings.objective.perceptual]

    def figures(ema: Any) -> dict[str, float]:
        made = batches.values(lambda batch: program(ema, frozen, batch))
        return {f"{HELD_OUT}/{name}": float(made[name].mean()) for name in names}

    return HeldOut({f"{HELD_OUT}/{name}": BETTER[name] for name in names}, figures)


def held_out_program(loss: LossFn, layout: Layout) -> Callable:
    """Return a jitted (params, frozen, batch) → {"loss" and each metric: float32 [B]}.

    batch: of the loader, with NUMBER int32 [B]. The noise of a row depends on its number alone.
    """

    def rows(params, frozen, batch):
        def one(image, number):
            key = jax.random.fold_in(jax.random.key(SEED), number)
            value, metrics = loss(params, frozen, {"image": image[None]}, key[None])
            return {"loss": value, **metrics}

        return jax.vmap(one)(batch["image"], batch[NUMBER])

    return jax.jit(layout.spread(rows, P()))
