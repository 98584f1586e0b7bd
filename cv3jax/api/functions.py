"""The cascade as pure functions, for callers who jit them under a mesh of their own."""

import dataclasses
from collections.abc import Callable

from cv3jax.api.arguments import settings_of_one
from cv3jax.api.environment import value_errors
from cv3jax.cascade.coders import decoder, encoder, text_encoder
from cv3jax.cascade.limits import check_trained
from cv3jax.cascade.parts import build_model
from cv3jax.cascade.stage_network import sampler_options
from cv3jax.cascade.stage_sampler import make_stage_sampler
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.models.layers import attend
from cv3jax.models.vae import Autoencoder


@dataclasses.dataclass(frozen=True)
class Functions:
    """Pure jitted functions; each takes the parameters of its part first (`Cascade.params`).

    text: (params, tokens int [B, L]) → text features [B, L, C].
    encode: (params, pixels [B, H, W, 3] in [-1, 1], noise [B, h, w, z]) → scaled latents.
    decode: (params, scaled latents [B, h, w, z]) → uint8 pixels [B, H, W, 3].
    sampler: (stage's name, steps=, guidance=, eta=) → a function (params, text [B, L, C], low or
    None, noise [B, h, w, z], keys [B], w) → latents. None stands for the checkpoint's value. A base
    stage starts from the noise, a relay stage from `low` and the noise. w is the guidance weight, a
    scalar or [B]; where `guidance` is 1 the function is unguided.
    """

    text: Callable
    encode: Callable
    decode: Callable
    sampler: Callable[..., Callable]


def functions_of(description: CascadeDescription) -> Functions:
    """Return the functions of a cascade's description. They hold no parameters."""
    vae = build_model(Autoencoder, description.vae.model)
    scale = description.vae.measured

    def sampler(
        name: str,
        *,
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
    ) -> Callable:
        if (stage := description.stages.get(name)) is None:
            raise ValueError(f"stage {name!r}: give one of {', '.join(description.stages)}")
        settings = settings_of_one(steps, guidance, eta)
        with value_errors():
            check_trained(description, {name: settings})
        chosen = settings.of(stage)
        return make_stage_sampler(
            stage, sampler_options(chosen, chosen.guidance == 1.0, None, attend)
        )

    return Functions(
        text_encoder(description.t5), encoder(vae, scale, None), decoder(vae, scale, None), sampler
    )
