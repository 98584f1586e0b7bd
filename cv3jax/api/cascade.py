"""The public `Cascade`: text to pictures, and pictures to larger ones."""

import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

from cv3jax.api import arguments, hub, loading, parts
from cv3jax.api.drawing import Request, draw, warm
from cv3jax.api.environment import value_errors
from cv3jax.api.fitting import Fitting
from cv3jax.api.functions import Functions, functions_of
from cv3jax.api.keywords import naming_keywords
from cv3jax.api.result import Pictures
from cv3jax.api.steps import Callback
from cv3jax.api.watching import Watching
from cv3jax.cascade.own_pictures import layers_of
from cv3jax.cascade.pipeline import Cascade as Engine
from cv3jax.cascade.upscaling import Upscaled, upscale
from cv3jax.checkpoints.description import CascadeDescription

BATCH = 16  # most pictures that are drawn at once on a device


class Cascade:
    """A loaded cascade, which draws when it is called.

    `Cascade.load` makes one. Every method raises ValueError, with one line, on values that cannot
    be.
    """

    def __init__(self, *loaded: Any, **_: Any):
        """Raise TypeError: `Cascade.load` makes a cascade."""
        if len(loaded) != 3 or not isinstance(loaded[0], Engine):
            raise TypeError('Cascade: call Cascade.load("scenes"), which reads a cascade from disk')
        engine, source, recorder = loaded
        self._engine, self._source, self._recorder = engine, source, recorder
        self._fitting, self._watching = Fitting(engine), Watching(engine)

    @classmethod
    @naming_keywords
    def load(
        cls,
        source: str | Path,
        *,
        mesh: Any = None,
        dtype: str | None = None,
        attention: str = "auto",
        lora: str | Path | Sequence[str | Path] = (),
    ) -> "Cascade":
        """Return the cascade at `source`, loaded onto the devices.

        Args:
            source: a cascade's directory, the workdir of a run, the name of an installed cascade
                such as "scenes", or "owner/name" of the Hugging Face Hub.
            mesh: a `jax.sharding.Mesh` with the axes data, fsdp, tensor and context, or its sizes
                such as "data=2,fsdp=4"; None is one device.
            dtype: "float32" or "bfloat16", in which all parts compute; None is the checkpoint's.
            attention: the UNets' kernel: "auto", "xla", "cudnn", "splash" or "heads".
            lora: adapters of any format as --lora takes them, "FILE" or "relay=FILE:0.8".

        Raises:
            ValueError: there is no such cascade or adapter, a part of it is missing or damaged, or
                the devices do not allow the mesh or the attention.
        """
        return cls(*loading.load(source, mesh, dtype, attention, lora))

    @property
    def description(self) -> CascadeDescription:
        """What cascade.json says of the parts."""
        return self._engine.description

    @property
    def params(self) -> dict[str, Any]:
        """The parameters by part: "t5", "vae", and those of the stages."""
        return self._engine.params

    def __repr__(self) -> str:
        """Return where it was loaded from, its parts, and the sizes that its stages draw."""
        stages = self.description.stages.items()
        sides = ", ".join(f"{name} {one.image_size}×{one.image_size}" for name, one in stages)
        others = ", ".join(name for name in self.description.parts if name not in dict(stages))
        return f"Cascade({str(self._source)!r}: {sides}, {others})"

    @naming_keywords
    def __call__(
        self,
        prompt: str | Sequence[str],
        *,
        seed: int | Sequence[int] | None = None,
        num: int = 1,
        size: int | Sequence[int] | None = None,
        steps: int | Sequence[int] | None = None,
        guidance: float | Sequence[float] | None = None,
        eta: float | Sequence[float] | None = None,
        tile: int | None = None,
        batch: int = BATCH,
        callback: Callback | None = None,
    ) -> Pictures:
        """Draw pictures of prompts.

        Args:
            prompt: what to draw, one string or several.
            seed: the first picture's of each prompt, and the next ones count up; a list has one
                for each prompt or for each picture; None draws a random one.
            num: pictures of each prompt.
            size: (height, width) of the final pictures in pixels, or one side; None is one relay
                pass over the base's trained size.
            steps: base and relay steps; one number serves both; None is the checkpoint's.
            guidance: guidance weights w of base and relay, as for steps.
            eta: 0 is deterministic, 1 ancestral, as for steps.
            tile: side in pixels of the tiles in which larger pictures are predicted and decoded;
                0 is none, and None is none unless the whole does not fit into memory.
            batch: most pictures at once on a device.
            callback: called with a `Step` after each step; it may return False to cancel.

        Raises:
            TypeError: an argument is unknown; the line names the nearest one.
            ValueError: an argument cannot be; the line says what is right.
            CancelledError: the callback returned False.
        """
        prompts = arguments.prompts_of(prompt)
        seeds = arguments.seeds_of(seed, len(prompts), num)
        base, relay = arguments.settings_of(steps, guidance, eta, tile)
        arguments.check_batch(batch)
        arguments.check_callback(callback)
        with value_errors():
            sizes = parts.drawn(self._engine, size, base, relay)
            repeated = [text for text in prompts for _ in range(num)]
            width = parts.width(self._engine, batch, len(seeds))
            request = Request(repeated, seeds, sizes, base, relay)
            request = self._fitting.drawing(request, width, tile)
            seen = functools.partial(self._watching.watched, callback, request.base.tile)
            drawn = draw(self._engine, request, width, seen)
            return dataclasses.replace(drawn, _record=self._recorder.drawn(request))

    @naming_keywords
    def upscale(
        self,
        image: Any,
        prompt: str,
        *,
        factor: int = 2,
        strength: float = 1.0,
        seed: int = 0,
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
        tile: int | None = None,
        colour_fix: str = "wavelet",
        callback: Callback | None = None,
    ) -> Upscaled:
        """Enlarge a picture of the caller's by the relay.

        Args:
            image: a PIL image of any mode, or uint8 [H, W, 3], of at most 4096 pixels per side.
            prompt: what it shows.
            factor: 2, 4, 8 or 16; each doubling is a relay pass.
            strength: where the relay starts, as a share of its trained start, in (0, 1]: how much
                it may change.
            seed: of the noise.
            steps: of the whole relay; a smaller strength takes its share of them.
            guidance: the relay's guidance weight w.
            eta: 0 is deterministic, 1 ancestral.
            tile: side in pixels of the tiles in which larger pictures are predicted and decoded;
                0 is none, and None is none unless the whole does not fit into memory.
            colour_fix: how low frequencies become the picture's: "wavelet", "adain" or "none".
            callback: called with a `Step` after each step; it may return False to cancel.
        """
        prompt = arguments.prompt_of(prompt)
        (seed,) = arguments.seeds_of(seed, 1, 1)
        settings = arguments.settings_of_one(steps, guidance, eta, tile)
        arguments.check_callback(callback)
        how = arguments.enlarging_of(factor, strength, seed, settings, colour_fix)
        with value_errors():
            layers = layers_of(image, self.description)
            how = self._fitting.enlarging(layers, how, tile)
            engine = self._watching.watched(callback, how.settings.tile, self._engine, range(1))
            return self._recorder.upscaled(
                upscale(engine, layers, prompt, how), layers, prompt, how
            )

    def tokens(self, prompt: str | Sequence[str]) -> np.ndarray:
        """Return the tokens, int [B, L], of prompts, which `Functions.text` takes."""
        parts.require(self._engine, "t5")
        return np.asarray(self._engine.tokenize(arguments.prompts_of(prompt)))

    def text(self, prompt: str | Sequence[str]) -> jax.Array:
        """Return the text features [B, L, C] of prompts."""
        parts.require(self._engine, "t5")
        with value_errors():
            return parts.text_of(self._engine, arguments.prompts_of(prompt))

    def encode(self, images: Any, *, seed: int | Sequence[int] = 0) -> jax.Array:
        """Return the latents [B, h, w, z] of pictures: samples of the posterior, scaled.

        images: PIL images, uint8 [B, H, W, 3], or floats in [-1, 1]. seed: the first picture's.
        Floats in [0, 1] cannot be told from these, and become pictures that are too light.
        """
        with value_errors():
            return parts.encode(self._engine, images, seed)

    def decode(self, latents: Any) -> list[Image.Image]:
        """Return the pictures of scaled latents [B, h, w, z]."""
        with value_errors():
            return [Image.fromarray(one) for one in parts.decode(self._engine, latents)]

    @naming_keywords
    def base(
        self,
        text: jax.Array,
        *,
        seed: int | Sequence[int] = 0,
        size: int | Sequence[int] | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
    ) -> jax.Array:
        """Return the base stage's latents [B, h, w, z] for text features [B, L, C].

        size: of its pictures; None: as trained. seed: of all, or of each. Others as for a call.
        """
        settings = arguments.settings_of_one(steps, guidance, eta)
        with value_errors():
            return parts.base(self._engine, text, seed, arguments.size_of(size), settings)

    @naming_keywords
    def relay(
        self,
        text: jax.Array,
        images: Any,
        *,
        seed: int | Sequence[int] = 0,
        steps: int | None = None,
        guidance: float | None = None,
        eta: float | None = None,
    ) -> list[Image.Image]:
        """Return pictures enlarged to twice the size by one relay pass, for features [B, L, C].

        images: one for each row of `text`, as for `encode`. seed: of every picture, or one for
        each. The others are as for calling the cascade.
        """
        settings = arguments.settings_of_one(steps, guidance, eta)
        with value_errors():
            made = parts.relay(self._engine, text, images, seed, settings)
            return [Image.fromarray(one) for one in made]

    @naming_keywords
    def compile(
        self,
        sizes: Sequence[int | Sequence[int] | None] = (None,),
        batches: Sequence[int] = (1,),
        *,
        steps: int | Sequence[int] | None = None,
        guidance: float | Sequence[float] | None = None,
        eta: float | Sequence[float] | None = None,
        tile: int | None = None,
    ) -> dict[str, float]:
        """Compile what draws pictures of these sizes in these batches. Returns seconds by batch.

        A call that then draws such pictures compiles nothing. sizes, batches: lists of what `size`
        and of how many pictures at once a call will have. The others are as for that call.
        """
        base, relay = arguments.settings_of(steps, guidance, eta, tile)
        sizes, batches = arguments.listed("sizes", sizes), arguments.listed("batches", batches)
        for batch in batches:
            arguments.check_batch(batch)
        seconds = {}
        with value_errors():
            for some in [parts.drawn(self._engine, size, base, relay) for size in sizes]:
                for width in sorted({parts.width(self._engine, batch, batch) for batch in batches}):
                    request = Request(["a"] * width, [0] * width, some, base, relay)
                    request = self._fitting.drawing(request, width, tile)
                    name = f"{some[-1]}, {width} at once"
                    seconds[name] = sum(warm(self._engine, request).values())
        return seconds

    def functions(self) -> Functions:
        """Return the cascade's pure jitted functions, for callers with a mesh of their own."""
        return functions_of(self.description)

    def save(self, directory: str | Path) -> Path:
        """Write the cascade, with a model card, into a new directory, and return its path."""
        with value_errors():
            return hub.save(self._recorder.bare(self._source), Path(directory))

    def push_to_hub(
        self, repository: str, *, private: bool = True, token: str | None = None
    ) -> str:
        """Upload the cascade, with a model card, to "owner/name" of the Hugging Face Hub.

        Returns the address.
        """
        source = self._recorder.bare(self._source)
        return hub.push(source, repository, private=private, token=token)
