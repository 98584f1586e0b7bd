"""The noise schedule and sampler of a CogView3 stage, base or relay, as a scheduler of diffusers.

This file belongs to a folder that `cv3jax convert --to diffusers` wrote. It needs PyTorch and
diffusers, and nothing of cv3jax.
"""

import dataclasses
import math

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput

FORMS = ("released", "paper")


@dataclasses.dataclass
class RelaySchedulerOutput(BaseOutput):
    """What a step returns: the sample at its end, and the predicted clean latent x̂0."""

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class RelayScheduler(SchedulerMixin, ConfigMixin):
    """Relay diffusion: from low + σ ε down to the picture, while `low` is blended out.

    The state of a sampler is x = mean + σ ε. In a relay stage the mean drifts from the clean latent
    x0 to the latent `low` of the enlarged picture: mean = (1 - blur) x0 + blur low. A base stage
    has no `low`, its blur is 0, and each step is Euler's in σ (DDIM's).

    Args:
        num_train_timesteps: T; time indices are 0..T - 1.
        beta_start: β of index 0; betas are linear in √β.
        beta_end: β of index T - 1.
        start: T_r, where sampling starts: T for a base stage.
        blur: "none" for a base stage, or "linear", "sigma" or "exp".
        form: "released" keeps `low` fixed, "paper" carries the mean from step to step.
        prediction_type: what the UNet predicts, "epsilon" or "v_prediction".

    Raises:
        ValueError: a blur, form or prediction type of another name.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        beta_start: float = 0.00085,
        beta_end: float = 0.012,
        start: int = 1000,
        blur: str = "none",
        form: str = "released",
        prediction_type: str = "epsilon",
    ):
        """Make the table of σ, float32 [T + 1]. sigmas[t] belongs to index t - 1; sigmas[0] = 0."""
        for value, names in (
            (blur, ("none", "linear", "sigma", "exp")),
            (form, FORMS),
            (prediction_type, ("epsilon", "v_prediction")),
        ):
            if value not in names:
                raise ValueError(f"{value!r} is none of {', '.join(names)}")
        # in float64 until the last two roundings, as in the released code
        betas = np.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps) ** 2
        kept = np.cumprod(1.0 - betas)
        variance = ((1.0 - kept) / kept).astype(np.float32)
        self.table = np.concatenate([np.zeros(1, np.float32), np.sqrt(variance)])
        self.set_timesteps(min(50, start))

    @property
    def is_relay(self) -> bool:
        """Whether this is a relay stage's, which starts from an enlarged picture."""
        return self.config.blur != "none"

    def set_timesteps(
        self,
        num_inference_steps: int,
        device: str | torch.device | None = None,
        strength: float = 1.0,
    ) -> None:
        """Choose the points to visit: indices floor((T - 1)(T_r/T) k/n) for k = n..1.

        Sets `timesteps` int64 [n] (the indices), and `sigmas` and `blurs` float32 [n + 1].

        strength: a relay starts at that share of T_r, in (0, 1], with that share of the steps.

        Raises ValueError where two points would coincide.
        """
        total, start = self.config.num_train_timesteps, self.config.start
        n = num_inference_steps
        if n > 0 and strength < 1.0:
            n, start = max(round(n * strength), 1), max(round(start * strength), 1)
        points = [(total - 1) * start * k // (total * n) + 1 for k in range(n, 0, -1)] + [0]
        if n < 1 or len(set(points)) < n + 1:
            raise ValueError(f"{n} steps: give 1..{start}, few enough to be different times")
        self.num_inference_steps = n
        self.timesteps = torch.tensor(points[:-1], device=device) - 1
        self.sigmas = torch.from_numpy(self.table[points]).to(device)
        self.blurs = torch.from_numpy(self._blurs(points, strength)).to(device)
        self._mean: torch.Tensor | None = None

    def begin(self, noise: torch.Tensor, low: torch.Tensor | None = None) -> torch.Tensor:
        """Return where sampling begins: √(1 + σ²) ε for a base stage, low + σ ε for a relay stage.

        noise: ε, of the shape of the latents. Call it after `set_timesteps`.
        """
        self._mean = torch.zeros_like(noise) if low is None else low
        sigma = self.sigmas[0]
        return torch.sqrt(1.0 + sigma**2) * noise if low is None else low + sigma * noise

    def scale_model_input(self, sample: torch.Tensor, step: int) -> torch.Tensor:
        """Return what the UNet takes at step number `step` (0..n - 1): x / √(1 + σ²)."""
        return sample / torch.sqrt(1.0 + self.sigmas[step] ** 2)

    def step(
        self,
        model_output: torch.Tensor,
        step: int,
        sample: torch.Tensor,
        low: torch.Tensor | None = None,
        eta: float = 0.0,
        noise: torch.Tensor | None = None,
    ) -> RelaySchedulerOutput:
        """Return the sample after step number `step` (0..n - 1), and x̂0.

        low: the latent of the enlarged picture, for a relay stage. eta: 0 is deterministic, 1
        ancestral. noise: what eta > 0 adds, standard normal.
        """
        sigma, sigma_s = self.sigmas[step], self.sigmas[step + 1]
        x0 = self._clean(model_output, sample, sigma)
        m_t, m_s = self._means(x0, low, self.blurs[step], self.blurs[step + 1])
        delta = eta * sigma_s * torch.sqrt(1.0 - (sigma_s / sigma) ** 2)
        moved = m_s + torch.sqrt(sigma_s**2 - delta**2) / sigma * (sample - m_t)
        self._mean = m_s
        if noise is not None:
            moved = moved + delta * noise
        return RelaySchedulerOutput(prev_sample=moved, pred_original_sample=x0)

    def _clean(
        self, model_output: torch.Tensor, sample: torch.Tensor, sigma: torch.Tensor
    ) -> torch.Tensor:
        """Return x̂0, float32, of what the UNet predicted."""
        if self.config.prediction_type == "epsilon":
            return sample - sigma * model_output.float()
        c_in = 1.0 / torch.sqrt(1.0 + sigma**2)
        return c_in**2 * sample - sigma * c_in * model_output.float()

    def _means(
        self, x0: torch.Tensor, low: torch.Tensor | None, b_t: torch.Tensor, b_s: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the means at the two ends of a step."""
        if not self.is_relay:
            return x0, x0
        if self.config.form == "paper":
            return self._mean, b_s / b_t * self._mean + (1.0 - b_s / b_t) * x0
        return (1.0 - b_t) * x0 + b_t * low, (1.0 - b_s) * x0 + b_s * low

    def _blurs(self, points: list[int], strength: float) -> np.ndarray:
        """Return the blur at each of the points t, float32.

        A linear blur is strength · k/n, as released. The others are those of training at the same
        times.
        """
        kind, start = self.config.blur, self.config.start
        t = np.asarray(points, np.float64)
        if kind == "none":
            blur = np.zeros_like(t)
        elif kind == "linear":
            blur = strength * np.arange(len(points))[::-1] / (len(points) - 1)
        elif kind == "sigma":
            blur = self.table[points].astype(np.float64) / float(self.table[start])
        else:
            angle = np.sin(np.minimum(t / start, 1.0) * math.pi / 2)
            blur = (1 - np.exp(-(angle**4))) / (1 - math.exp(-1))
        blur[-1] = 0.0
        return np.clip(blur, 0.0, 1.0).astype(np.float32)
