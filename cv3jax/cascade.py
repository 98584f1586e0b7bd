"""The cascade: prompts → base → decode → enlarge ×2 → relay → decode, each stage one jitted
sampling function.

A cascade is described by plain values (`cascade.json`): the models' sizes, each stage's grid and
guidance, the latent scale. On a mesh its parameters lie as in training, rows of a batch over data
and fsdp, and the height of latents and pictures over context.
"""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.sharding import PartitionSpec as P

from cv3jax import checkpoint, hosts
from cv3jax.diffusion import sampler
from cv3jax.diffusion.conditioning import make_cond, normals, square_sizes
from cv3jax.diffusion.denoiser import guided, make_denoiser
from cv3jax.diffusion.pixels import to_uint8, up2
from cv3jax.diffusion.schedule import base_grid, ddpm_sigma, relay_grid
from cv3jax.kernels.attention import make_attend
from cv3jax.models.layers import Attend
from cv3jax.models.layers import attend as xla_attention
from cv3jax.models.t5 import T5Encoder
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder, posterior_sample
from cv3jax.sharding import (
    BATCH,
    batch_sharding,
    context_problem,
    make_constrain,
    make_mesh,
    tree_sharding,
)
from data_pipeline.io.errors import InputError
from data_pipeline.tokenizer import load_tokenizer

MAX_PASSES = 4  # doublings of the base's side: the paper iterates the relay twice, tiles beyond


def build_model(cls: type, fields: dict, **extra: Any) -> Any:
    """A model from the fields of a description, lists of JSON made tuples.

    Raises InputError on one it lacks or `extra` sets.
    """
    known = {field.name for field in dataclasses.fields(cls)} - set(extra)
    if unknown := sorted(set(fields) - known):
        raise InputError(
            f"{cls.__name__} has no field {', '.join(unknown)}; it has"
            f" {', '.join(sorted(known - {'parent', 'name'}))}"
        )
    return cls(
        **{
            name: tuple(value) if isinstance(value, list) else value
            for name, value in fields.items()
        },
        **extra,
    )


def build_on(mesh: Mesh | None, cls: type, fields: dict, **extra: Any) -> Any:
    """`build_model`, of a model that runs on `mesh`: told how its activations lie there, where it
    asks.
    """
    if mesh is not None and "constrain" in {field.name for field in dataclasses.fields(cls)}:
        extra["constrain"] = make_constrain(mesh)
    return build_model(cls, fields, **extra)


def stage_attend(stage: dict, attention: str, mesh: Mesh) -> Attend:
    """A stage's attention by name, on the devices of `mesh`.

    Raises InputError on one that these or its heads do not allow.
    """
    model = build_model(UNet, stage["model"])
    try:
        return make_attend(
            attention,
            mesh.devices.flat[0].platform,
            mesh,
            head_dim=model.head_dim,
            dtype=model.dtype,
        )
    except ValueError as e:
        raise InputError(str(e)) from e


def unet_init(model: UNet, text_width: int) -> Callable[[jax.Array], Any]:
    """key → fresh UNet parameters for text features of that width."""
    side = 2 ** (len(model.channel_mult) - 1)

    def init(key):
        cond = make_cond(jnp.zeros((1, 8, text_width)), square_sizes(1, 64))
        return model.init(
            key, jnp.zeros((1, side, side, model.out_channels)), jnp.zeros((1,), jnp.int32), cond
        )["params"]

    return init


def t5_init(model: T5Encoder) -> Callable[[jax.Array], Any]:
    """key → fresh text encoder parameters."""
    return lambda key: model.init(key, jnp.zeros((1, 8), jnp.int32))["params"]


def vae_init(model: Autoencoder) -> Callable[[jax.Array], Any]:
    """key → fresh autoencoder parameters."""
    return lambda key: model.init(key, jnp.zeros((1, 64, 64, 3)))["params"]


@functools.cache  # tracing a UNet takes seconds, and many commands ask for the same one
def model_shapes(model: UNet | Autoencoder | T5Encoder, text_width: int = 0) -> Any:
    """The parameters of a model, as ShapeDtypeStructs; a UNet's for text features of that width.

    Not to be changed in place.
    """
    if isinstance(model, UNet):
        init = unet_init(model, text_width)
    else:
        init = t5_init(model) if isinstance(model, T5Encoder) else vae_init(model)
    return jax.eval_shape(init, jax.random.key(0))


def part_shapes(description: dict, part: str) -> Any:
    """The parameters of a part as its description says, as ShapeDtypeStructs."""
    if part == "vae":
        return model_shapes(build_model(Autoencoder, description["vae"]["model"]))
    if part == "t5":
        return model_shapes(build_model(T5Encoder, description["t5"]["model"]))
    stage = description["stages"][part]
    return model_shapes(build_model(UNet, stage["model"]), stage["text_width"])


def make_stage_sampler(
    stage: dict,
    *,
    steps: int,
    unguided: bool = False,
    eta: float = 0.0,
    form: str = "released",
    mesh: Mesh | None = None,
    attend: Attend = xla_attention,
) -> Callable:
    """A stage's jitted sampler: (params, text [B, L, C], low or None, noise [B, h, w, z], keys [B],
    w) → latents [B, h, w, z].

    A base stage starts from the noise, a relay stage from `low` and the noise. With η > 0 each
    image draws from its own key, so its pixels do not depend on the batch it is made in. A
    distilled model is told the guidance weight w, a scalar or [B], others are guided by it;
    `unguided` saves them half of the work where it is 1.
    """
    model = build_on(mesh, UNet, stage["model"], attend=attend)
    relay = stage["kind"] == "relay"
    grid = relay_grid(steps, stage["start"]) if relay else base_grid(steps)
    plain = make_denoiser(
        lambda p, x, i, c: model.apply({"params": p}, x, i, c),
        jnp.asarray(ddpm_sigma()),
        stage["prediction"],
    )

    def run(params, text, low, noise, keys, w):
        denoise = plain if unguided or model.w_dim else guided(plain, w)
        told = jnp.broadcast_to(w, text.shape[:1]) if model.w_dim else None
        cond = make_cond(
            text, square_sizes(text.shape[0], noise.shape[1] * stage["factor"]), told, model.w_dim
        )
        low = low if relay else None
        x = sampler.start(grid, noise, low)
        return sampler.sample(
            lambda x, t: denoise(params, x, t, cond),
            grid,
            x,
            low,
            keys=fold(keys, 1),
            eta=eta,
            form=form,
        )[0]

    return jax.jit(run, out_shardings=images_sharding(mesh))


def untrained(name: str, stage: dict, steps: int, guidance: float | np.ndarray) -> str | None:
    """Why a distilled stage cannot do so many steps, or that w: it knows those it was trained for.

    None where it can.
    """
    knows = stage.get("distilled")
    if knows and steps != knows["steps"]:
        return (
            f"{steps} steps of the {name} stage: it is distilled to {knows['steps']} and knows no"
            f" others; give {knows['steps']}"
        )
    if (
        knows
        and knows["w"]
        and not np.all((guidance >= knows["w"][0]) & (guidance <= knows["w"][1]))
    ):
        return (
            f"guidance {guidance} of the {name} stage: it is distilled for"
            f" {knows['w'][0]:g}..{knows['w'][1]:g}; give one of these"
        )
    return None


def check_trained(description: dict, **given: dict | None) -> None:
    """Raise InputError where what is given for a stage (`base={"steps": 8}`) is not what it was
    distilled to.
    """
    for name, values in given.items():
        stage = description["stages"].get(name)
        settings = (
            {}
            if stage is None
            else {key: (values or {}).get(key, stage[key]) for key in ("steps", "guidance")}
        )
        if settings and (problem := untrained(name, stage, **settings)):
            raise InputError(problem)


def images_sharding(mesh: Mesh | None) -> NamedSharding | None:
    """Where latents and pictures [B, H, ...] lie on a mesh: rows over data and fsdp, height over
    context.
    """
    return None if mesh is None else NamedSharding(mesh, P(BATCH, "context"))


def relay_passes(description: dict, size: int | None = None, side: int | None = None) -> int:
    """How many relay passes images of side `size` take from `side` (the base's).

    Raises InputError on one that there is no way to.
    """
    stages = description["stages"]
    side = stages["base"]["image_size"] if side is None else side
    relays = "relay" in stages and stages["relay"]["kind"] == "relay"  # sr_1024's is not one yet
    final = side * (1 + relays) if size is None else size
    passes = max(final // side, 1).bit_length() - 1
    if side << passes != final or passes > MAX_PASSES or (passes and not relays):
        allowed = (
            f"{side}, doubled up to {MAX_PASSES} times"
            if relays
            else f"{side}, for there is no relay stage"
        )
        raise InputError(f"size {final}: this cascade makes {allowed}")
    return passes


draw_noise = jax.jit(normals, static_argnums=1)


class Cascade:
    """A loaded cascade: its description, parameters and tokenizer, and the jitted functions between
    them.

    On a `mesh`, where the parameters then lie too, batches must divide over its data and fsdp, and
    heights of latents over context. `attention` is the UNets' (`attention.KINDS`). `within`: the
    mesh of a run that the parameters are of, where batches need not divide.

    Raises:
        InputError: an attention that the devices, or a stage's heads, do not allow.
    """

    def __init__(
        self,
        description: dict,
        params: dict,
        tokenize: Callable | None,
        mesh: Mesh | None = None,
        attention: str = "auto",
        *,
        within: Mesh | None = None,
    ):
        self.description, self.params, self.tokenize, self.mesh = (
            description,
            params,
            tokenize,
            mesh,
        )
        devices = mesh or within or make_mesh(data=1, devices=jax.local_devices()[:1])
        self._attend = {
            name: stage_attend(stage, attention, devices)
            for name, stage in description.get("stages", {}).items()
        }
        self._vae = vae = build_on(mesh, Autoencoder, description["vae"]["model"])
        scale, images = description["vae"]["scale"], images_sharding(mesh)
        self._decode = jax.jit(
            lambda p, z: to_uint8(vae.apply({"params": p}, z / scale, method="decode")),
            out_shardings=images,
        )

        def encode(p, pixels, noise):
            return scale * posterior_sample(
                *vae.apply({"params": p}, pixels, method="encode"), noise
            )

        self._encode = jax.jit(encode, out_shardings=images)
        if "t5" in description:
            t5 = build_model(T5Encoder, description["t5"]["model"])
            self._text = jax.jit(lambda p, tokens: t5.apply({"params": p}, tokens))
        self._samplers: dict[tuple, Callable] = {}

    def put_rows(self, value: np.ndarray | jax.Array) -> jax.Array:
        """`value` [B, ...] on the devices, a part of its rows on each; a scalar on all of them."""
        if self.mesh is None:
            return jnp.asarray(value)
        return jax.device_put(
            value, batch_sharding(self.mesh) if value.ndim else NamedSharding(self.mesh, P())
        )

    def put_images(self, value: np.ndarray | jax.Array) -> jax.Array:
        """`value` [B, H, W, C], latents or pixels, placed as `images_sharding` says.

        Raises InputError where H does not divide.
        """
        if self.mesh is None:
            return jnp.asarray(value)
        if value.shape[1] % (ways := self.mesh.shape["context"]):
            raise InputError(
                f"mesh context={ways}: latents of {value.shape[1]} rows do not divide over it; give"
                " a smaller context"
            )
        return jax.device_put(value, images_sharding(self.mesh))

    def text(self, prompts: list[str]) -> jax.Array:
        """Features [B, L, C] of prompts."""
        return self._text(self.params["t5"], self.put_rows(self.tokenize(prompts)))

    def decode(self, latents: jax.Array) -> np.ndarray:
        """Scaled latents [B, h, w, z] → uint8 images [B, H, W, 3]."""
        return hosts.whole(self._decode(self.params["vae"], latents))

    def encode(self, images: np.ndarray | jax.Array, noise: jax.Array) -> jax.Array:
        """Pixels in [-1, 1] [B, H, W, 3] → scaled latents, samples of the posterior by that noise
        [B, h, w, z] (`noise`).
        """
        return self._encode(self.params["vae"], self.put_images(images), noise)

    def latent(self, side: int) -> tuple[int, int, int]:
        """(h, w, z) of the latent of an image of `side` pixels."""
        return side // self._vae.factor, side // self._vae.factor, self._vae.z_channels

    def multiple(self, name: str) -> int:
        """What the side in pixels of a stage's images must be a multiple of."""
        return self._vae.factor * 2 ** (
            len(self.description["stages"][name]["model"]["channel_mult"]) - 1
        )

    def noise(self, keys: jax.Array, side: int) -> jax.Array:
        """Standard normal noise of the latents of images of `side` pixels, [B, h, w, z], one key an
        image.
        """
        return self.put_images(draw_noise(keys, self.latent(side)))

    def stage(
        self,
        name: str,
        text: jax.Array,
        keys: jax.Array,
        noise: jax.Array,
        low: jax.Array | None = None,
        *,
        steps: int | None = None,
        guidance: float | np.ndarray | None = None,
        eta: float | None = None,
        form: str | None = None,
    ) -> jax.Array:
        """Sample stage `name` from `noise`: latents.

        What is given replaces the description's steps, guidance (one, or [B]), eta, form.

        Raises InputError on what a distilled stage was not trained for.
        """
        stage = self.description["stages"][name]
        self._check_context(name, noise.shape[1])
        given = {"steps": steps, "guidance": guidance, "eta": eta, "form": form}
        chosen = {key: stage[key] if value is None else value for key, value in given.items()}
        if problem := untrained(name, stage, chosen["steps"], chosen["guidance"]):
            raise InputError(problem)
        w = np.asarray(chosen.pop("guidance"), np.float32)
        call = (name, bool(np.all(w == 1.0)), *chosen.items())
        if call not in self._samplers:
            try:
                self._samplers[call] = make_stage_sampler(
                    stage, **chosen, unguided=call[1], mesh=self.mesh, attend=self._attend[name]
                )
            except ValueError as e:
                raise InputError(
                    f"{chosen['steps']} steps of the {name} stage from t = {stage['start']}:"
                    f" {str(e)[:120]}"
                ) from e
        return self._samplers[call](self.params[name], text, low, noise, keys, self.put_rows(w))

    def _check_context(self, name: str, rows: int) -> None:
        """Raise InputError where context cannot split the stage's latents of so many rows."""
        stages = len(self.description["stages"][name]["model"]["channel_mult"])
        if self.mesh is not None and (problem := context_problem(self.mesh, rows, stages)):
            raise InputError(f"mesh {problem} ({name} stage)")

    def passes(self, size: int | None = None, side: int | None = None) -> int:
        """`relay_passes` of this cascade."""
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
        **relay: Any,
    ) -> dict[str, np.ndarray]:
        """One relay pass over uint8 images [B, side, side, 3]: {"upsampled", "round_trip",
        "relay"}, uint8 of twice the side.

        number: of the pass, from 1; each draws other noise from the keys. noise: {"low", "relay"}
        [B, h, w, z] instead of that: of the posterior sample, and of the start. `final`: "relay"
        alone, which saves a decoding. `relay` replaces steps, guidance, eta, form.
        """
        side = 2 * images.shape[1]
        of_low, of_relay = fold(keys, 2 * number), fold(keys, 2 * number + 1)
        noise = (
            {"low": self.noise(of_low, side), "relay": self.noise(of_relay, side)}
            if noise is None
            else noise
        )
        up = up2(self.put_images(images).astype(jnp.float32) / 127.5 - 1.0)
        low = self.encode(up, noise["low"])
        latents = self.stage("relay", text, of_relay, noise["relay"], low, **relay)
        between = (
            {} if final else {"upsampled": np.asarray(to_uint8(up)), "round_trip": self.decode(low)}
        )
        return {**between, "relay": self.decode(latents)}

    def generate(
        self,
        prompts: list[str],
        seeds: list[int],
        *,
        size: int | None = None,
        base: dict | None = None,
        relay: dict | None = None,
        images: np.ndarray | None = None,
        noise: dict[str, np.ndarray] | None = None,
        final: bool = False,
    ) -> dict[str, np.ndarray]:
        """Images of every stage for each prompt: {"base", "upsampled", "round_trip", "relay"}:
        uint8 [B, side, side, 3].

        seeds: one an image. `size` is the final side, the base's or that doubled any number of
        times (each doubling is one relay pass; the last three keys are of the last pass). `base`
        and `relay` replace steps, guidance, eta, form. `images` uint8 [B, side, side, 3] stand for
        what the base would draw. `noise` {"base", "low", "relay"} [B, h, w, z] replaces what the
        seeds draw, for at most one relay pass. `final`: without what only shows how a relay pass
        came about.
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
                self.noise(keys, self.description["stages"]["base"]["image_size"])
                if noise is None
                else noise["base"]
            )
            images = self.decode(self.stage("base", text, keys, start, **(base or {})))
        out, image = {"base": images}, images
        for number in range(1, self.passes(size, images.shape[1]) + 1):
            out |= self.enlarge(
                text, keys, image, number, noise=noise, final=final, **(relay or {})
            )
            image = out["relay"]
        return out


def fold(keys: jax.Array, number: int) -> jax.Array:
    """A fresh key for each of `keys`."""
    return jax.vmap(lambda key: jax.random.fold_in(key, number))(keys)


def load(
    path: str | Path, parts: tuple[str, ...] = (), mesh: Mesh | None = None, attention: str = "auto"
) -> Cascade:
    """The cascade at `path`, with `parts` of it (default: all it has), on `mesh` or on the default
    device.

    Raises:
        InputError: no checkpoint there, a part missing or damaged, or an attention that cannot be.
    """
    directory, description = checkpoint.read_cascade(path)
    if "vae" not in description:
        raise InputError(f"{path} has no vae, without which there are no pictures")
    placement = None if mesh is None else lambda shapes: tree_sharding(shapes, mesh)
    return Cascade(
        description, *load_params(directory, description, parts, placement), mesh, attention
    )


def load_params(
    directory: Path,
    description: dict,
    parts: tuple[str, ...] = (),
    placement: Callable | None = None,
) -> tuple[dict, Callable | None]:
    """(parameters by part, tokenizer or None) of the parts named, or of all there are, where
    `placement` puts each (shapes → shardings).

    Default: the first device of this process, however many a part was trained on.
    """
    placement = placement or (lambda _: SingleDeviceSharding(jax.local_devices()[0]))
    stages = description.get("stages", {})
    available = [name for name in ("vae", "t5") if name in description] + sorted(stages)
    if missing := [part for part in parts if part not in available]:
        raise InputError(f"{directory} has no {', '.join(missing)}, only {', '.join(available)}")
    params = {}
    for part in parts or available:
        tree = part_shapes(description, part)
        params[part] = checkpoint.load_part(
            directory / part, checkpoint.abstract(tree, placement(tree))
        )
    tokenize = (
        load_tokenizer(directory / "t5" / "tokenizer", description["t5"]["length"])
        if "t5" in params
        else None
    )
    return params, tokenize
