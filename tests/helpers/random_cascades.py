"""A cascade of a few channels whose parameters are all random, and orders for its engine.

Its stages are neither distilled nor conditioned on guidance, so that any steps and weights do.
"""

import threading
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.parts import part_shapes
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sizes import Size
from cv3jax.checkpoints.description import (
    CascadeDescription,
    StageDescription,
    TextDescription,
    VaeDescription,
)
from cv3jax.distributed.partitioning import tree_sharding
from cv3jax.serving.orders import Choice, Drawn, Ended, Event, Order, Stepped

SIDE, LENGTH, VOCAB = 16, 6, 64  # pixels of the base's pictures; tokens of a prompt
UNET = {
    "channels": 16,
    "channel_mult": (1, 2),
    "res_blocks": 1,
    "depth": (0, 1),
    "mid_depth": 1,
    "head_dim": 8,
    "groups": 4,
}
VAE = {"channels": 8, "channel_mult": (1,), "res_blocks": 1, "patch": 4, "groups": 4}
TEXT = {"vocab": VOCAB, "channels": 16, "layers": 1, "heads": 2, "head_dim": 8, "ff": 16}


# of previews: [z + 1][3]
MATRIX = [[0.3, 0.0, 0.1], [0.0, -0.2, 0.1], [0.2, 0.2, 0.0], [-0.1, 0.3, 0.2], [0.0, 0.1, -0.1]]


def description(
    form: str = "released", preview: list[list[float]] | None = MATRIX
) -> CascadeDescription:
    vae = VaeDescription({**VAE, "mid_attention": False}, 1.1, preview)
    common = {
        "model": UNET,
        "text_width": TEXT["channels"],
        "prediction": "v",
        "factor": 4,
        "guidance": 3.0,
        "eta": 0.0,
        "form": form,
    }
    base = StageDescription(kind="base", image_size=SIDE, start=1000, steps=4, **common)
    relay = StageDescription(
        kind="relay", image_size=2 * SIDE, start=500, steps=3, blur="linear", **common
    )
    return CascadeDescription(vae, TextDescription(TEXT, LENGTH), {"base": base, "relay": relay})


def cascade(mesh: Any = None, **fields: Any) -> Cascade:
    """Return the cascade of `description(**fields)`, on a mesh or on the first device."""
    rng, known = np.random.default_rng(0), description(**fields)

    def filled(leaf: jax.ShapeDtypeStruct) -> jax.Array:
        kernel = len(leaf.shape) > 1
        mean, spread = (0, np.prod(leaf.shape[:-1]) ** -0.5) if kernel else (0.3, 0.3)
        return jnp.asarray(rng.normal(mean, spread, leaf.shape), leaf.dtype)

    params = {part: jax.tree.map(filled, part_shapes(known, part)) for part in known.parts}
    if mesh is None:
        params = jax.device_put(params, jax.local_devices()[0])
    else:
        params = {
            part: jax.device_put(tree, tree_sharding(tree, mesh)) for part, tree in params.items()
        }
    return Cascade(known, params, tokenize, mesh)


def tokenize(prompts: list[str]) -> np.ndarray:
    """Return tokens [B, L] that depend on the words alone."""
    rows = [[zlib.crc32(word.encode()) % VOCAB for word in prompt.split()] for prompt in prompts]
    return np.asarray([(row + [0] * LENGTH)[:LENGTH] for row in rows], np.int32)


def chain(*sides: int) -> tuple[Size, ...]:
    return tuple(Size(side, side) for side in sides)


class Heard:
    """A listener that keeps its events, and can be waited for."""

    def __init__(self):
        self.events: list[Event] = []
        self._over = threading.Event()

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        if isinstance(event, Ended) or (isinstance(event, Drawn) and event.last):
            self._over.set()

    def wait(self) -> "Heard":
        assert self._over.wait(120), "the engine did not end the order"
        return self

    @property
    def last(self) -> Event:
        return self.wait().events[-1]

    @property
    def image(self) -> np.ndarray:
        assert isinstance(self.last, Drawn), self.last
        return self.last.image

    def of(self, kind: type) -> list[Event]:
        return [event for event in self.events if isinstance(event, kind)]

    def pictures(self) -> list[np.ndarray]:
        return [event.image for event in self.of(Drawn)]

    def steps(self) -> list[tuple[str, int, int, int]]:
        return [(e.stage, e.relay_pass, e.done, e.count) for e in self.of(Stepped)]


def order(name: str, sizes: tuple[Size, ...], seed: int = 0, **more: Any) -> Order:
    """Return an order of 4 base and 3 relay steps, with `more` in place of its fields."""
    fields = {"prompt": "a red circle", "base": Choice(4, 3.0), "relay": Choice(3, 2.0)}
    return Order(name, seed=seed, sizes=sizes, **{**fields, **more})


def mixture(draws: np.random.Generator, sizes: list[tuple[Size, ...]], name: str) -> Order:
    """Return an order with random settings, of one of those chains of sizes."""

    def choice(relay: bool) -> Choice:
        eta = float(draws.choice([0.0, 0.0, 0.5, 1.0]))
        strength = float(draws.choice([1.0, 0.5])) if relay else 1.0
        guidance = round(float(draws.uniform(1, 8)), 2)
        return Choice(int(draws.integers(1, 7)), guidance, eta, strength)

    taken = sizes[draws.integers(len(sizes))]
    words = draws.choice(["red", "blue", "circle", "star", "large", "small"], 3)
    image = None
    if len(taken) > 1 and draws.random() < 0.25:
        image = draws.integers(0, 256, (*taken[0], 3), np.uint8)
    return order(
        name,
        taken,
        int(draws.integers(2**32)),
        prompt=" ".join(words),
        base=choice(relay=False),
        relay=choice(relay=True),
        image=image,
        previews=bool(draws.random() < 0.3),
    )


def drawn(engine: Any, *orders: Order) -> list[Heard]:
    """Return what the listeners of orders heard that were submitted at once, when all are over."""
    heard = [Heard() for _ in orders]
    for one, listener in zip(orders, heard, strict=True):
        engine.submit(one, listener)
    return [listener.wait() for listener in heard]
