"""Sampling a stage of CogView3's pipeline: noise, conditions, and the loop over the steps.

This file belongs to a folder that `cv3jax convert --to diffusers` wrote, beside pipeline.py.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import ModelMixin
from diffusers.utils.torch_utils import randn_tensor

Generator = torch.Generator | list[torch.Generator] | None
# (step number, time index, x) → x, called after each step
Tell = Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor]


class Choices(NamedTuple):
    """How a stage is sampled: steps, guidance weight w, η, and where a relay starts."""

    steps: int
    guidance: float
    eta: float
    strength: float = 1.0


def choices(
    settings: dict[str, Any], stages: list[str], given: dict[str, Any]
) -> tuple[Choices, Choices]:
    """Return how base and relay are sampled.

    given: steps, guidance and eta, each one for both stages, (base, relay), or None for the
    folder's settings. Raises ValueError on what one of `stages` was not distilled for.
    """
    chosen = []
    for i, name in enumerate(("base", "relay")):
        own = settings.get(name) or {}
        values = {
            field: value[i] if isinstance(value, Sequence) else value
            for field, value in given.items()
        }
        one = Choices(*(own.get(f) if v is None else v for f, v in values.items()))
        knows = (own.get("distilled") or {}) if name in stages else {}
        if knows and one.steps != knows["steps"]:
            raise ValueError(f"the {name} was distilled to {knows['steps']} steps; give those")
        w = knows.get("w")
        if w and not w[0] <= one.guidance <= w[1]:
            raise ValueError(f"the {name} was distilled for a guidance of {w[0]:g}..{w[1]:g}")
        chosen.append(one)
    return chosen[0], chosen[1]


def begun(relay: Choices, strength: float, settings: dict[str, Any]) -> Choices:
    """Return how the relay is sampled from `strength`, the share of its trained start, in (0, 1].

    Raises ValueError on another strength, and on one that the relay was not distilled for.
    """
    number = isinstance(strength, (int, float)) and not isinstance(strength, bool)
    if not number or not 0.0 < strength <= 1.0:
        raise ValueError(f"strength {strength!r}: give a number above 0 and at most 1")
    if strength != 1.0 and settings["relay"].get("distilled"):
        raise ValueError(
            f"strength {strength}: the relay was distilled from its trained start; give 1"
        )
    return relay._replace(strength=float(strength))


@dataclasses.dataclass(frozen=True)
class Draws:
    """The noise of a call: given arrays, or drawn by a generator."""

    generator: Generator
    given: dict[str, Any] | None
    device: torch.device

    def start(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """Return standard normal noise of `shape` [B, z, h, w]; `name` is that of a given array.

        Raises ValueError where arrays are given, and none has the name and the shape.
        """
        if self.given is None:
            return randn_tensor(shape, generator=self.generator, device=self.device)
        return self._checked(name, self.given.get(name), shape)

    def of_step(self, stage: str, step: int, shape: tuple[int, ...]) -> torch.Tensor:
        """Return the noise that step number `step` adds where η > 0. Raises as `start`."""
        if self.given is None:
            return randn_tensor(shape, generator=self.generator, device=self.device)
        name = f"{stage}_steps"
        steps = self.given.get(name, ())
        return self._checked(name, steps[step] if step < len(steps) else None, shape)

    def _checked(self, name: str, value: Any, shape: tuple[int, ...]) -> torch.Tensor:
        wanted = (shape[0], *shape[2:], shape[1])
        if value is None or tuple(value.shape) != wanted:
            found = "missing" if value is None else f"{list(value.shape)}"
            raise ValueError(f"noise[{name!r}] is {found}: give {list(wanted)}, channels last")
        value = torch.as_tensor(np.asarray(value, np.float32), device=self.device)
        return value.permute(0, 3, 1, 2)


def guidance_embedding(w: torch.Tensor, dim: int) -> torch.Tensor:
    """Return sin, then cos, of 1000 w · 10000^(-k / (dim/2 - 1)), float32 [B, dim].

    w [B] is the guidance weight that a distilled model is conditioned on.
    """
    half = dim // 2
    exponent = np.float32(-np.log(10000.0) / (half - 1)) * np.arange(half, dtype=np.float32)
    # the exp is correctly rounded: the last bit of a frequency matters at w = 7.5
    frequency = torch.from_numpy(np.exp(exponent.astype(np.float64)).astype(np.float32))
    angle = 1000.0 * w.float()[:, None] * frequency.to(w.device)
    return F.pad(torch.cat([torch.sin(angle), torch.cos(angle)], dim=-1), (0, dim % 2))


def conditions(
    unet: ModelMixin, text: torch.Tensor, size: tuple[int, int], w: float, guided: bool
) -> dict[str, Any]:
    """Return what the UNet takes beside the latents and the time.

    text [B, L, C]. size: height and width of the pictures, in pixels. w: what a distilled UNet is
    conditioned on. guided: twice the batch, the first half unconditional: zeros for text, and the
    same sizes.
    """
    text = torch.cat([torch.zeros_like(text), text]) if guided else text
    batch, device, distilled = len(text), text.device, unet.config.time_cond_proj_dim
    sizes = torch.tensor([[*size, 0, 0, *size]], device=device)
    found: dict[str, Any] = {
        "encoder_hidden_states": text.to(unet.dtype),
        "added_cond_kwargs": {
            "text_embeds": torch.zeros(batch, 0, device=device, dtype=unet.dtype),
            "time_ids": sizes.repeat(batch, 1),
        },
    }
    if distilled:
        weights = torch.full((batch,), w, device=device)
        found["timestep_cond"] = guidance_embedding(weights, distilled).to(unet.dtype)
    return found


def draw(
    unet: ModelMixin,
    scheduler: Any,
    x: torch.Tensor,
    low: torch.Tensor | None,
    given: dict[str, Any],
    choices: Choices,
    added: Callable[[int], torch.Tensor],
    tell: Tell,
) -> torch.Tensor:
    """Return the latents [B, z, h, w], float32, that a stage samples from x of `scheduler.begin`.

    given: of `conditions`. added: step number → the noise of η > 0.
    """
    guided = len(given["encoder_hidden_states"]) > len(x)
    for i, index in enumerate(scheduler.timesteps):
        scaled = scheduler.scale_model_input(x, i).to(unet.dtype)
        made = unet(torch.cat([scaled, scaled]) if guided else scaled, index, **given).sample
        made = made.float()
        if guided:
            without, with_text = made.chunk(2)
            made = without + choices.guidance * (with_text - without)
        noise = added(i) if choices.eta else None
        x = tell(i, index, scheduler.step(made, i, x, low, choices.eta, noise).prev_sample)
    return x
