"""CogView3 in diffusers: base, relay and upscaling as one pipeline.

This file belongs to a folder that `cv3jax convert --to diffusers` wrote. It needs PyTorch,
diffusers and transformers, and nothing of cv3jax:

    from diffusers import DiffusionPipeline

    folder = "cogview3-diffusers"
    pipe = DiffusionPipeline.from_pretrained(
        folder, custom_pipeline=folder, trust_remote_code=True
    )
    pipe("a red bicycle leaning against an old brick wall").images[0].save("bicycle.png")

The base stage draws a picture of half the size. It is decoded to 8 bits, enlarged to twice the
side, encoded again, and the relay stage samples from there.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from diffusers import DiffusionPipeline, ModelMixin
from diffusers.utils import BaseOutput
from PIL import Image

from .pictures import OUTPUTS, as_output, decode, doubled, encode, from_pictures, to_pil, to_uint8
from .prompts import as_prompts, tokenize
from .sampling import Choices, Draws, Generator, begun, choices, conditions, draw

MAX_PASSES = 4  # relay passes: doublings of the side
Noise = dict[str, Any] | None
# (pipeline, stage, step number, time index, {"latents"}) → {"latents"} or None
Callback = Callable[[DiffusionPipeline, str, int, int, dict[str, torch.Tensor]], dict | None] | None


@dataclasses.dataclass
class CogView3PipelineOutput(BaseOutput):
    """The pictures, in the form of `output_type`, and the 8-bit pictures that the relay enlarged.

    images: PIL images, or np [B, H, W, 3] or pt [B, 3, H, W] in 0..1, or scaled latents
    [B, z, h, w]. enlarged: PIL images, or None where there was no relay pass.
    """

    images: list[Image.Image] | np.ndarray | torch.Tensor
    enlarged: list[Image.Image] | None = None


class CogView3Pipeline(DiffusionPipeline):
    """Draw pictures of prompts by a cascade of relay diffusion, or enlarge pictures.

    Args:
        vae: AutoencoderKL, or PatchAutoencoder of this folder.
        text_encoder: T5EncoderModel. It is called without a mask, as released.
        tokenizer: the T5 tokenizer.
        base: UNet of the base stage; None in a folder that only enlarges.
        base_scheduler: RelayScheduler of the base stage.
        relay: UNet of the relay stage; None in a folder without one.
        relay_scheduler: RelayScheduler of the relay stage.
        settings: text_length (tokens of a prompt), factor (pixels per latent pixel), and for base
            and relay {image_size, steps, guidance, eta, distilled}: the defaults. distilled is
            None, or {steps, w}: the only steps, and the range of guidance weights, that the stage
            was distilled for.
    """

    model_cpu_offload_seq = "text_encoder->base->relay->vae"
    _optional_components: ClassVar = ["base", "base_scheduler", "relay", "relay_scheduler"]

    def __init__(
        self,
        vae: ModelMixin,
        text_encoder: torch.nn.Module,
        tokenizer: Any,
        base: ModelMixin | None = None,
        base_scheduler: Any = None,
        relay: ModelMixin | None = None,
        relay_scheduler: Any = None,
        settings: dict[str, Any] | None = None,
    ):
        """Register the parts."""
        super().__init__()
        self.register_modules(
            vae=vae,
            text_encoder=text_encoder,
            tokenizer=tokenizer,
            base=base,
            base_scheduler=base_scheduler,
            relay=relay,
            relay_scheduler=relay_scheduler,
        )
        self.register_to_config(settings=settings)

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | list[str],
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int | Sequence[int] | None = None,
        guidance_scale: float | Sequence[float] | None = None,
        eta: float | Sequence[float] | None = None,
        num_images_per_prompt: int = 1,
        relay_passes: int | None = None,
        generator: Generator = None,
        noise: Noise = None,
        output_type: str = "pil",
        callback_on_step_end: Callback = None,
    ) -> CogView3PipelineOutput:
        """Draw pictures of prompts.

        Args:
            prompt: one or several.
            height: of the final pictures, in pixels; None is the stage's own size.
            width: likewise.
            num_inference_steps: one for both stages, or (base, relay); None is the folder's.
            guidance_scale: w, likewise. For a distilled stage, the w that it is conditioned on.
            eta: likewise; 0 is deterministic, 1 ancestral.
            num_images_per_prompt: pictures of each prompt.
            relay_passes: doublings of the side by the relay, 0..4; 0 is the base alone. By default
                1, where the folder has a relay.
            generator: of the noise; a list has one for each picture.
            noise: arrays in place of what the generator draws: base [B, h, w, z] and, for a relay
                pass, low and relay, each [B, h, w, z]: those of `cv3jax sample --noise`. base_steps
                and relay_steps [steps, B, h, w, z] are what an eta > 0 adds. At most one pass.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: called after each step with (pipeline, stage, step number, time
                index, {"latents"}); it may return {"latents"} that replace them.

        Raises:
            ValueError: the folder has no base, or a size, number of steps or guidance weight is not
                possible.
        """
        self._require("base")
        passes = int(self.relay is not None) if relay_passes is None else relay_passes
        if not 0 <= passes <= MAX_PASSES:
            raise ValueError(f"relay_passes {passes}: give 0..{MAX_PASSES}")
        stages = ["base", "relay"][: 1 + bool(passes)]
        self._require(stages[-1])
        side = self.config.settings["base"]["image_size"] << passes
        size = (side if height is None else height, side if width is None else width)
        self._check_size("base", size, 2**passes)
        if passes:
            self._check_size("relay", size, 2 ** (passes - 1))
        given = {"steps": num_inference_steps, "guidance": guidance_scale, "eta": eta}
        base, relay = choices(self.config.settings, stages, given)
        self._check_call(output_type, noise, passes)
        text = self.encode_prompt(prompt, num_images_per_prompt)
        draws = Draws(generator, noise, self._execution_device)
        size = (size[0] >> passes, size[1] >> passes)
        latents = self._draw("base", size, None, text, base, draws, callback_on_step_end)
        images = None
        for _ in range(passes):
            images = to_uint8(decode(self.vae, latents))
            latents = self._enlarge(images, text, relay, draws, callback_on_step_end)
        return self._output(latents, images, output_type)

    @torch.no_grad()
    def upscale(
        self,
        image: Any,
        prompt: str | list[str],
        factor: int = 2,
        strength: float = 1.0,
        num_inference_steps: int | None = None,
        guidance_scale: float | None = None,
        eta: float | None = None,
        generator: Generator = None,
        noise: Noise = None,
        output_type: str = "pil",
        callback_on_step_end: Callback = None,
    ) -> CogView3PipelineOutput:
        """Enlarge pictures by the relay.

        Args:
            image: a PIL image, a list of them, or uint8 arrays [H, W, 3] or [B, H, W, 3].
            prompt: what they show: one for all, or one each.
            factor: 2, 4, 8 or 16; each doubling is a relay pass.
            strength: where the relay starts, as a share of its trained start, in (0, 1].
            num_inference_steps: of the whole relay, of which a strength takes its share; None is
                the folder's.
            guidance_scale: of the relay, likewise.
            eta: of the relay, likewise.
            generator: of the noise; a list has one for each picture.
            noise: low and relay of `__call__`, for one pass.
            output_type: "pil", "np", "pt" or "latent".
            callback_on_step_end: as in `__call__`.

        Raises:
            ValueError: the folder has no relay, or one of the arguments is not possible.
        """
        self._require("relay")
        images = from_pictures(image)
        passes = factor.bit_length() - 1
        if factor != 1 << passes or not 1 <= passes <= MAX_PASSES:
            raise ValueError(f"factor {factor}: give 2, 4, 8 or 16")
        self._check_size("relay", (2 * images.shape[2], 2 * images.shape[3]))
        given = {"steps": num_inference_steps, "guidance": guidance_scale, "eta": eta}
        _, relay = choices(self.config.settings, ["relay"], given)
        relay = begun(relay, strength, self.config.settings)
        self._check_call(output_type, noise, passes)
        prompts = as_prompts(prompt)
        if len(prompts) not in (1, len(images)):
            raise ValueError(f"{len(prompts)} prompts for {len(images)} pictures: give one or all")
        text = self.encode_prompt(prompts, len(images) // len(prompts))
        draws = Draws(generator, noise, self._execution_device)
        latents = self._enlarge(images, text, relay, draws, callback_on_step_end)
        for _ in range(passes - 1):
            images = to_uint8(decode(self.vae, latents))
            latents = self._enlarge(images, text, relay, draws, callback_on_step_end)
        return self._output(latents, images, output_type)

    @torch.no_grad()
    def encode_prompt(
        self, prompt: str | list[str], num_images_per_prompt: int = 1
    ) -> torch.Tensor:
        """Return the text features [prompts · num_images_per_prompt, L, C].

        Names of control tokens, such as "</s>", are read as text. Raises ValueError on what is no
        prompt.
        """
        tokens = tokenize(self.tokenizer, as_prompts(prompt), self.config.settings["text_length"])
        features = self.text_encoder(tokens.to(self._execution_device)).last_hidden_state
        return features.repeat_interleave(num_images_per_prompt, dim=0)

    def _enlarge(
        self,
        images: torch.Tensor,
        text: torch.Tensor,
        chosen: Choices,
        draws: Draws,
        callback: Callback,
    ) -> torch.Tensor:
        """Return the latents that a relay pass makes of uint8 images [B, 3, H, W]."""
        up = doubled(images.to(self._execution_device))
        size = (up.shape[2], up.shape[3])
        low = encode(self.vae, up, draws.start("low", self._latent(len(text), size)))
        return self._draw("relay", size, low, text, chosen, draws, callback)

    def _draw(
        self,
        stage: str,
        size: tuple[int, int],
        low: torch.Tensor | None,
        text: torch.Tensor,
        chosen: Choices,
        draws: Draws,
        callback: Callback,
    ) -> torch.Tensor:
        """Return the latents [B, z, h, w], float32, that a stage draws for pictures of a size."""
        unet, scheduler = getattr(self, stage), getattr(self, f"{stage}_scheduler")
        shape = self._latent(len(text), size)
        scheduler.set_timesteps(chosen.steps, self._execution_device, chosen.strength)
        guided = not unet.config.time_cond_proj_dim and chosen.guidance != 1.0
        given = conditions(unet, text, size, chosen.guidance, guided)
        with self.progress_bar(total=len(scheduler.timesteps)) as bar:

            def tell(step: int, index: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
                bar.update()
                kept = callback and callback(self, stage, step, int(index), {"latents": x})
                return (kept or {}).get("latents", x)

            x = scheduler.begin(draws.start(stage, shape), low)
            added = functools.partial(draws.of_step, stage, shape=shape)
            return draw(unet, scheduler, x, low, given, chosen, added, tell)

    def _latent(self, count: int, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the shape [B, z, h, w] of the latents of pictures of a size in pixels."""
        factor, z = self.config.settings["factor"], self.vae.config.latent_channels
        return count, z, size[0] // factor, size[1] // factor

    def _output(
        self, latents: torch.Tensor, enlarged: torch.Tensor | None, output_type: str
    ) -> CogView3PipelineOutput:
        images = latents
        if output_type != "latent":
            images = as_output(decode(self.vae, latents), output_type)
        return CogView3PipelineOutput(
            images=images, enlarged=None if enlarged is None else to_pil(enlarged)
        )

    def _require(self, stage: str) -> None:
        if getattr(self, stage) is None:
            raise ValueError(f"this folder has no {stage} stage; convert a cascade that has one")

    def _check_size(self, stage: str, size: tuple[int, int], times: int = 1) -> None:
        """Raise ValueError unless the stage can draw pictures of the size over `times`."""
        halvings = len(getattr(self, stage).config.block_out_channels) - 1
        multiple = times * self.config.settings["factor"] * 2**halvings
        if any(side < multiple or side % multiple for side in size):
            raise ValueError(f"{size[0]}×{size[1]} pixels: give multiples of {multiple}")

    def _check_call(self, output_type: str, noise: Noise, passes: int) -> None:
        if output_type not in OUTPUTS:
            raise ValueError(f"output_type {output_type!r}: give one of {', '.join(OUTPUTS)}")
        if noise is not None and passes > 1:
            raise ValueError("noise is for one relay pass at most")
