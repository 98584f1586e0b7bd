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
from cv3jax.cascade.limits import check_latents
from cv3jax.cascade.parts import build_on, load_params
from cv3jax.cascade.sampler_settings import AS_DESCRIBED, SamplerSettings
from cv3jax.cascade.samplers import StageSamplers
from cv3jax.cascade.sizes import Size, as_size, drawn_sizes, enlarged_sizes
from cv3jax.cascade.stage_network import check_context, stage_attend
from cv3jax.cascade.stage_sampler import (
    Progress,
    StageSampler,
    Watch,
    check_rows,
    draw_noise,
    fold,
    images_sharding,
    keys_of,
    sample_stage,
    watch_stage,
)
from cv3jax.cascade.tiled_coders import Coders
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.diffusion.pixels import enlarged, to_uint8
from cv3jax.distributed import processes
from cv3jax.distributed.mesh import batch_sharding, make_mesh
from cv3jax.distributed.partitioning import tree_sharding
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
        stages = description.stages.items()
        self.attend = {name: stage_attend(one, attention, devices) for name, one in stages}
        self.vae = vae = build_on(mesh, Autoencoder, description.vae.model)
        scale = description.vae.measured
        self.encoder, self.decoder = encoder(vae, scale, mesh), decoder(vae, scale, mesh)
        self.coders = Coders(vae, scale, mesh)
        if description.t5 is not None:
            self.encode_text = text_encoder(description.t5)
        self._samplers = StageSamplers(description, mesh, self.attend)
        self._lap: Callable[[str, Any], Any] = lambda part, value: value
        self._progress: Progress | None = None
        self._watch: Watch | None = None

    def with_params(self, part: str, params: Any) -> "Cascade":
        """Return this cascade with other parameters of one part; both share compiled functions."""
        return self._changed(params={**self.params, part: params})

    def timed_by(self, lap: Callable[[str, Any], Any]) -> "Cascade":
        """Return this cascade that calls lap(part, value) with what a part makes.

        It takes the value that `lap` returns. The parts are "text" and "base" in `generate`, and
        in each relay pass "rest" (noise and enlargement), "vae" and "relay".
        """
        return self._changed(_lap=lap)

    def with_progress(self, progress: Progress) -> "Cascade":
        """Return this cascade that calls progress(stage, steps done, steps) about once a second."""
        return self._changed(_progress=progress)

    def watched_by(self, watch: Watch) -> "Cascade":
        """Return this cascade that calls watch(stage, steps done, steps, x0) after each step.

        x0() returns the x̂0 [B, h, w, z] that the step predicted. What `watch` raises ends the
        sampling.
        """
        return self._changed(_watch=watch)

    def without_steps(self) -> "Cascade":
        """Return this cascade that takes no sampling step; drawing compiles all that it takes."""
        return self._changed(_samplers=self._samplers.without_steps())

    def _changed(self, **attributes: Any) -> "Cascade":
        other = copy.copy(self)
        vars(other).update(attributes)
        return other

    def put_rows(self, value: np.ndarray | jax.Array) -> jax.Array:
        """Put `value` [B, ...] on the devices, sharded by rows; a scalar is replicated."""
        if self.mesh is None:
            return jnp.asarray(value)
        where = batch_sharding(self.mesh) if value.ndim else NamedSharding(self.mesh, P())
        return jax.device_put(value, where)

    def put_images(self, value: np.ndarray | jax.Array) -> jax.Array:
        """Put latents or pixels [B, H, W, C] on the devices. Raises InputError as `check_rows`."""
        if self.mesh is None:
            return jnp.asarray(value)
        check_rows(self.mesh, value.shape[1])
        return jax.device_put(value, images_sharding(self.mesh))

    def text(self, prompts: list[str]) -> jax.Array:
        """Return the text features [B, L, C] of prompts."""
        return self.encode_text(self.params["t5"], self.put_rows(self.tokenize(prompts)))

    def decode(self, latents: jax.Array, tile: int = 0) -> np.ndarray:
        """Decode scaled latents [B, h, w, z] to uint8 images [B, H, W, 3].

        tile: side in pixels of the tiles in which larger images are decoded; 0 is as a whole.
        """
        size = Size(*latents.shape[1:3]).times(self.factor)
        decoder = self.coders.decoder(self.decoder, size, tile)
        return processes.whole(decoder(self.params["vae"], latents))

    def encode(self, images: np.ndarray | jax.Array, noise: jax.Array, tile: int = 0) -> jax.Array:
        """Encode pixels in [-1, 1] [B, H, W, 3] to scaled samples [B, h, w, z] of the posterior.

        tile: as for `decode`.
        """
        encode = self.coders.encoder(self.encoder, images.shape[1:3], tile)
        return encode(self.params["vae"], self.put_images(images), noise)

    @property
    def factor(self) -> int:
        """The pixels per latent position, per side."""
        return self.vae.factor

    def latent(self, size: int | Size) -> tuple[int, int, int]:
        """Return (h, w, z), the shape of the latent of an image of `size` pixels."""
        return (*as_size(size).divided(self.vae.factor), self.vae.z_channels)

    def noise(self, keys: jax.Array, size: int | Size) -> jax.Array:
        """Return standard normal noise [B, h, w, z] for images of `size` pixels, one key each."""
        return self.put_images(draw_noise(keys, self.latent(size)))

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

        The network is told the height and width of the pictures of these latents.

        Raises InputError on steps or guidance that a distilled stage was not trained for, on sides
        that the UNet cannot halve, and on a `low` of another shape.
        """
        check_latents(self.description, name, noise.shape, None if low is None else low.shape)
        check_context(self.mesh, self.description, name, noise.shape[1], settings.tile)
        sampler, w = self.sampler(name, settings)
        given = (sampler, self.params[name], text, low, noise, keys, self.put_rows(w))
        if self._watch is not None:
            return watch_stage(*given, functools.partial(self._watch, name))
        return sample_stage(*given, self._progress and functools.partial(self._progress, name))

    def sampler(self, name: str, settings: SamplerSettings) -> tuple[StageSampler, np.ndarray]:
        """Return (the sampler of a stage, its guidance weight w), see `StageSamplers.of`."""
        return self._samplers.of(name, settings)

    def sizes(self, size: Size | None = None, first: Size | None = None) -> tuple[Size, ...]:
        """Return the sizes of the first pictures and of what each relay pass makes of them.

        size: of the last ones. first: of given pictures, in place of the base's.
        """
        known = self.description
        return drawn_sizes(known, size) if first is None else enlarged_sizes(known, first, size)

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
        """Run one relay pass over uint8 images [B, H, W, 3].

        Returns {"upsampled", "round_trip", "relay"}, uint8 images [B, 2H, 2W, 3]. `number`
        counts the passes from 1; each draws other noise from the keys. `noise` {"low", "relay"}
        [B, h, w, z] replaces that noise, of the posterior sample and of the start. `final`: "relay"
        alone, which saves a decoding. `name`: the stage of the description that samples.
        """
        size = Size(*images.shape[1:3]).times(2)
        of_low, of_relay = fold(keys, 2 * number), fold(keys, 2 * number + 1)
        if noise is None:
            noise = {"low": self.noise(of_low, size), "relay": self.noise(of_relay, size)}
        up = enlarged(self.put_images(images))
        self._lap("rest", (up, noise))
        low = self._lap("vae", self.encode(up, noise["low"], settings.tile))
        latents = self.stage(name, text, of_relay, noise["relay"], low, settings)
        self._lap("relay", latents)
        made = {"relay": self._lap("vae", self.decode(latents, settings.tile))}
        if final:
            return made
        between = {"upsampled": to_uint8(up), "round_trip": self.decode(low, settings.tile)}
        return {name: np.asarray(value) for name, value in (between | made).items()}

    def generate(
        self,
        prompts: list[str],
        seeds: list[int],
        *,
        size: int | Size | None = None,
        base: SamplerSettings = AS_DESCRIBED,
        relay: SamplerSettings = AS_DESCRIBED,
        images: np.ndarray | None = None,
        noise: dict[str, np.ndarray] | None = None,
        final: bool = False,
    ) -> dict[str, np.ndarray]:
        """Draw images {"base", "upsampled", "round_trip", "relay"} for the prompts.

        They are uint8 [B, H, W, 3]; the last three are of the last relay pass. seeds: one per
        image. size: the final side or (height, width), see `drawn_sizes`; each doubling of the
        base's is one relay pass. base, relay: how these stages are sampled. images: uint8
        [B, H, W, 3] in place of what the base would draw. noise: {"base", "low", "relay"}
        [B, h, w, z] in place of what the seeds draw, for at most one relay pass. final: without the
        images that only show the steps of a relay pass.
        """
        given = None if images is None else Size(*images.shape[1:3])
        sizes = self.sizes(None if size is None else as_size(size), given)
        keys = keys_of(self.put_rows(np.asarray(seeds, np.uint32)))
        text = self._lap("text", self.text(prompts))
        noise = noise and {name: self.put_images(value) for name, value in noise.items()}
        if images is None:
            start = self.noise(keys, sizes[0]) if noise is None else noise["base"]
            latents = self._lap("base", self.stage("base", text, keys, start, settings=base))
            images = self._lap("vae", self.decode(latents, base.tile))
        out, image = {"base": images}, images
        for number in range(1, len(sizes)):
            out |= self.enlarge(text, keys, image, number, noise=noise, final=final, settings=relay)
            image = out["relay"]
        return out


def load(
    path: str | Path,
    parts: tuple[str, ...] = (),
    mesh: Mesh | None = None,
    attention: str = "auto",
    dtype: str | None = None,
) -> Cascade:
    """Load the cascade at `path` onto `mesh`, or onto the default device.

    parts: what to load, by default all. Matrices are in the types in which the parts compute, which
    are the description's or `dtype`.

    Raises InputError where there is no checkpoint, a part is missing or damaged, or the attention
    is not possible.
    """
    directory, description = cascades.read_cascade(path)
    if description.vae is None:
        raise InputError(
            f"{path} has no vae, which decodes latents into pictures; give a cascade with a vae"
        )
    description = description if dtype is None else description.computing_in(dtype)
    placement = None if mesh is None else lambda shapes: tree_sharding(shapes, mesh)
    params, tokenize = load_params(directory, description, parts, placement, computed=True)
    return Cascade(description, params, tokenize, mesh, attention)
