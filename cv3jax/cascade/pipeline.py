"""The cascade: prompts → base → decode → enlarge ×2 → relay → decode.

Each stage is one jitted sampling function. On a mesh, parameters are sharded as in training, the
rows of a batch over data and fsdp, and the height of latents and pictures over context.
"""

import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from cv3jax.cascade.coders import decoder, encoder, text_encoder
from cv3jax.cascade.limits import relay_passes, untrained
from cv3jax.cascade.parts import build_on, load_params
from cv3jax.cascade.sampler_settings import AS_DESCRIBED, SamplerSettings
from cv3jax.cascade.stage_sampler import (
    Progress,
    StageSampler,
    check_rows,
    draw_noise,
    fold,
    images_sharding,
    make_stage_steps,
    sample_stage,
    stage_attend,
)
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.diffusion.pixels import to_pixels, to_uint8, up2
from cv3jax.distributed import processes
from cv3jax.distributed.mesh import batch_sharding, make_mesh
from cv3jax.distributed.partitioning import context_problem, tree_sharding
from cv3jax.models.vae import Autoencoder
from data_pipeline.io.errors import InputError


class Cascade:
    """A loaded cascade: its description, parameters and tokenizer, and its jitted functions.

    On a `mesh`, batches must divide over data and fsdp, and heights of latents over context.
    `attention` is the UNets', one of `kernels.KINDS`. `within` is the mesh of a run that the
    parameters belong to; there batches need not divide.

    Raises:
        InputError: the devices, or the heads of a stage, do not allow the attention.
    """

    def __init__(
        self,
        description: CascadeDescription,
        params: dict,
        tokenize: Callable | None,
        mesh: Mesh | None = None,
        attention: str = "auto",
        *,
        within: Mesh | None = None,
    ):
        """Keep the parameters and jit the functions; nothing is compiled yet."""
        self.description, self.params = description, params
        self.tokenize, self.mesh = tokenize, mesh
        devices = mesh or within or make_mesh(data=1, devices=jax.local_devices()[:1])
        self._attend = {
            name: stage_attend(stage, attention, devices)
            for name, stage in description.stages.items()
        }
        self._vae = vae = build_on(mesh, Autoencoder, description.vae.model)
        scale = description.vae.measured
        self.encoder, self.decoder = encoder(vae, scale, mesh), decoder(vae, scale, mesh)
        if description.t5 is not None:
            self._text = text_encoder(description.t5)
        self._samplers: dict[tuple, StageSampler] = {}
        self._lap: Callable[[str, Any], Any] = lambda part, value: value
        self._progress: Progress | None = None

    def with_params(self, part: str, params: Any) -> "Cascade":
        """Return this cascade with other parameters of one part; both share compiled functions."""
        other = copy.copy(self)
        other.params = {**self.params, part: params}
        return other

    def timed_by(self, lap: Callable[[str, Any], Any]) -> "Cascade":
        """Return this cascade with a timer on its relay passes.

        They call lap(part, value) with what a part makes, and take the value that it returns. The
        parts are "rest" (noise and enlargement), "vae" and "relay".
        """
        other = copy.copy(self)
        other._lap = lap
        return other

    def with_progress(self, progress: Progress) -> "Cascade":
        """Return this cascade that calls progress(stage, steps done, steps) about once a second."""
        other = copy.copy(self)
        other._progress = progress
        return other

    def put_rows(self, value: np.ndarray | jax.Array) -> jax.Array:
        """Put `value` [B, ...] on the devices, sharded by rows; a scalar is replicated."""
        if self.mesh is None:
            return jnp.asarray(value)
        return jax.device_put(
            value, batch_sharding(self.mesh) if value.ndim else NamedSharding(self.mesh, P())
        )

    def put_images(self, value: np.ndarray | jax.Array) -> jax.Array:
        """Put `value` [B, H, W, C], latents or pixels, on the devices as `images_sharding` says.

        Raises InputError where H does not divide.
        """
        if self.mesh is None:
            return jnp.asarray(value)
        check_rows(self.mesh, value.shape[1])
        return jax.device_put(value, images_sharding(self.mesh))

    def text(self, prompts: list[str]) -> jax.Array:
        """Return the text features [B, L, C] of prompts."""
        return self._text(self.params["t5"], self.put_rows(self.tokenize(prompts)))

    def decode(self, latents: jax.Array) -> np.ndarray:
        """Decode scaled latents [B, h, w, z] to uint8 images [B, H, W, 3]."""
        return processes.whole(self.decoder(self.params["vae"], latents))

    def encode(self, images: np.ndarray | jax.Array, noise: jax.Array) -> jax.Array:
        """Encode pixels in [-1, 1] [B, H, W, 3] to scaled samples [B, h, w, z] of the posterior."""
        return self.encoder(self.params["vae"], self.put_images(images), noise)

    def latent(self, side: int) -> tuple[int, int, int]:
        """Return (h, w, z), the shape of the latent of an image of `side` pixels."""
        return side // self._vae.factor, side // self._vae.factor, self._vae.z_channels

    def multiple(self, name: str) -> int:
        """Return the number that the side of a stage's images, in pixels, must be a multiple of."""
        return self._vae.factor * 2 ** (
            len(self.description.stages[name].model["channel_mult"]) - 1
        )

    def noise(self, keys: jax.Array, side: int) -> jax.Array:
        """Return standard normal noise [B, h, w, z] for images of `side` pixels, one key each."""
        return self.put_images(draw_noise(keys, self.latent(side)))

    def stage(
        self,
        name: str,
        text: jax.Array,
        keys: jax.Array,
        noise: jax.Array,
        low: jax.Array | None = None,
        settings: SamplerSettings = AS_DESCRIBED,
    ) -> jax.Array:
        """Sample stage `name` from `noise`. Returns latents [B, h, w, z].

        Raises InputError on steps or guidance that a distilled stage was not trained for.
        """
        self.check_context(name, noise.shape[1])
        sampler, w = self.sampler(name, settings)
        tell = self._progress and functools.partial(self._progress, name)
        w = self.put_rows(w)
        return sample_stage(sampler, self.params[name], text, low, noise, keys, w, tell)

    def sampler(self, name: str, settings: SamplerSettings) -> tuple[StageSampler, np.ndarray]:
        """Return (the sampler of stage `name`, its guidance weight w, a scalar or [B]).

        Raises InputError on steps or guidance that a distilled stage was not trained for.
        """
        stage = self.description.stages[name]
        chosen = settings.of(stage)
        if problem := untrained(name, stage, chosen.steps, chosen.guidance):
            raise InputError(problem)
        w = np.asarray(chosen.guidance, np.float32)
        unguided = bool(np.all(w == 1.0))
        call = (name, unguided, chosen.steps, chosen.eta, chosen.form)
        if call not in self._samplers:
            self._samplers[call] = make_stage_steps(
                stage,
                steps=chosen.steps,
                unguided=unguided,
                eta=chosen.eta,
                form=chosen.form,
                mesh=self.mesh,
                attend=self._attend[name],
            )
        return self._samplers[call], w

    def check_context(self, name: str, rows: int) -> None:
        """Raise InputError where the context axis cannot split latents of so many rows."""
        stages = len(self.description.stages[name].model["channel_mult"])
        if self.mesh is not None and (problem := context_problem(self.mesh, rows, stages)):
            raise InputError(f"{name} stage: mesh {problem}")

    def passes(self, size: int | None = None, side: int | None = None) -> int:
        """Return the `relay_passes` of this cascade."""
        return relay_passes(self.description, size, side)

    def enlarge(
        self,
        text: jax.Array,
        keys: jax.Array,
        images: np.ndarray,
        number: int = 1,
        *,
        noise: dict[str, jax.Array] | None = None,
        final: bool = False,
        name: str = "relay",
        settings: SamplerSettings = AS_DESCRIBED,
    ) -> dict[str, np.ndarray]:
        """Run one relay pass over uint8 images [B, side, side, 3].

        Returns {"upsampled", "round_trip", "relay"}, uint8 images of twice the side. `number`
        counts the passes from 1; each draws other noise from the keys. `noise` {"low", "relay"}
        [B, h, w, z] replaces that noise, of the posterior sample and of the start. `final`: "relay"
        alone, which saves a decoding. `name`: the stage of the description that samples.
        """
        side = 2 * images.shape[1]
        of_low, of_relay = fold(keys, 2 * number), fold(keys, 2 * number + 1)
        if noise is None:
            noise = {"low": self.noise(of_low, side), "relay": self.noise(of_relay, side)}
        up = up2(to_pixels(self.put_images(images)))
        self._lap("rest", (up, noise))
        low = self._lap("vae", self.encode(up, noise["low"]))
        latents = self.stage(name, text, of_relay, noise["relay"], low, settings)
        self._lap("relay", latents)
        between = (
            {} if final else {"upsampled": np.asarray(to_uint8(up)), "round_trip": self.decode(low)}
        )
        return {**between, "relay": self._lap("vae", self.decode(latents))}

    def generate(
        self,
        prompts: list[str],
        seeds: list[int],
        *,
        size: int | None = None,
        base: SamplerSettings = AS_DESCRIBED,
        relay: SamplerSettings = AS_DESCRIBED,
        images: np.ndarray | None = None,
        noise: dict[str, np.ndarray] | None = None,
        final: bool = False,
    ) -> dict[str, np.ndarray]:
        """Draw images {"base", "upsampled", "round_trip", "relay"} for the prompts.

        They are uint8 [B, side, side, 3]; the last three are of the last relay pass. seeds: one per
        image. size: the final side, which is the base's or that doubled any number of times; each
        doubling is one relay pass. base, relay: how these stages are sampled. images: uint8
        [B, side, side, 3] in place of what the base would draw. noise: {"base", "low", "relay"}
        [B, h, w, z] in place of what the seeds draw, for at most one relay pass. final: without the
        images that only show the steps of a relay pass.
        """
        keys = jax.vmap(jax.random.key)(self.put_rows(np.asarray(seeds, np.uint32)))
        text = self.text(prompts)
        noise = (
            None
            if noise is None
            else {name: self.put_images(value) for name, value in noise.items()}
        )
        if images is None:
            start = (
                self.noise(keys, self.description.stages["base"].image_size)
                if noise is None
                else noise["base"]
            )
            images = self.decode(self.stage("base", text, keys, start, settings=base))
        out, image = {"base": images}, images
        for number in range(1, self.passes(size, images.shape[1]) + 1):
            out |= self.enlarge(text, keys, image, number, noise=noise, final=final, settings=relay)
            image = out["relay"]
        return out


def load(
    path: str | Path, parts: tuple[str, ...] = (), mesh: Mesh | None = None, attention: str = "auto"
) -> Cascade:
    """Load the cascade at `path` onto `mesh`, or onto the default device.

    parts: what to load, by default all. Matrices are in the types in which the parts compute.

    Raises:
        InputError: there is no checkpoint, a part is missing or damaged, or the attention is not
            possible.
    """
    directory, description = cascades.read_cascade(path)
    if description.vae is None:
        raise InputError(
            f"{path} has no vae, which decodes latents into pictures; give a cascade with a vae"
        )
    placement = None if mesh is None else lambda shapes: tree_sharding(shapes, mesh)
    params, tokenize = load_params(directory, description, parts, placement, computed=True)
    return Cascade(description, params, tokenize, mesh, attention)
