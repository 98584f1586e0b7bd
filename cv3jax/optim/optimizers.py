"""The optimizer: adamw, adafactor or muon, with a learning rate and a clipped gradient norm."""

import dataclasses

import jax
import jax.numpy as jnp
import optax

from cv3jax.optim import MOMENTS, OPTIMIZERS
from cv3jax.optim.clipping import clip_by_global_norm
from cv3jax.optim.moments import stored_in_bfloat16
from cv3jax.optim.muon import matrix_shape
from cv3jax.optim.muon_turns import scale_by_muon

# adafactor factors matrices with both sides at least this long; shorter ones are small anyway
FACTORED = 128
# wide, shallow and cheap to train with adam
EMBEDDINGS = ("embed", "time_in", "time_out", "size_in", "size_out", "w_proj")


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """An optimizer without its learning rate.

    `kind`: adamw (b1, b2, eps), adafactor (b2, momentum) or muon (turns and renew, with adam for
    vectors and embeddings). `clip`: the largest global norm of a gradient. `moments`: the type in
    which all three store their statistics.

    Raises:
        ValueError: there is no such kind or type of moments.
    """

    kind: str
    weight_decay: float = 0.0
    clip: float = 1.0
    b1: float = 0.9
    b2: float = 0.99
    eps: float = 1e-8
    momentum: float = 0.0
    moments: str = "float32"
    turns: int = 1
    renew: int = 1

    def __post_init__(self):
        """Raise ValueError on an unknown kind or type of moments."""
        if self.moments not in MOMENTS:
            raise ValueError(f"moments must be one of {', '.join(MOMENTS)}, not {self.moments!r}")
        if self.kind not in OPTIMIZERS:
            raise ValueError(f"optimizer must be one of {', '.join(OPTIMIZERS)}, not {self.kind!r}")


def is_hidden_matrix(path: tuple, value: jax.Array) -> bool:
    """Return whether a parameter is a matrix or convolution between hidden states.

    Norm scales, biases and embeddings are not.
    """
    names = [getattr(key, "key", None) for key in path]
    vector = value.size == matrix_shape(path, value)[0] * value.shape[-1] if value.ndim else True
    return not vector and not any(name in EMBEDDINGS for name in names)


def muon_labels(params) -> dict:
    """Return the optimizer of each parameter: muon for matrices between hidden states, or adam."""
    return jax.tree.map_with_path(
        lambda path, value: "muon" if is_hidden_matrix(path, value) else "adam", params
    )


def decay_matrices(weight_decay: float) -> optax.GradientTransformation:
    """Return decoupled weight decay of the matrices between hidden states.

    Norms, biases and embeddings do not decay, as is usual. Its state is that of
    optax.add_decayed_weights, so older optimizer states load.
    """

    def decayed(updates, params):
        return jax.tree.map_with_path(
            lambda path, update, value: (
                update + weight_decay * value if is_hidden_matrix(path, value) else update
            ),
            updates,
            params,
        )

    return optax.stateless(decayed)


def scale_by_adafactor(b2: float, momentum: float) -> optax.GradientTransformation:
    """Return Adafactor (arXiv 1804.04235) without its own learning rate.

    Its updates have a root mean square of about 1, as adam's have. The second moment of a matrix is
    kept as the means of its rows and columns, averaged with 1 - t^-0.8, at most `b2`. `momentum` is
    a running mean of the updates; 0 keeps none.
    """
    second = optax.scale_by_factored_rms(
        min_dim_size_to_factor=FACTORED,
        decay_rate=0.8,
        decay_rate_fn=lambda t, power: jnp.minimum(1.0 - (t + 1.0) ** -power, b2),
    )
    first = [optax.ema(momentum, debias=False)] if momentum else []
    return optax.chain(
        second,
        optax.stateless(lambda updates, params: jax.tree.map_with_path(clip_rms, updates)),
        *first,
    )


def clip_rms(path: tuple, update: jax.Array) -> jax.Array:
    """Return an update with a root mean square of at most 1, for each layer of a stack alone."""
    axes = tuple(range(int(matrix_shape(path, update)[0] > 1), update.ndim)) if update.ndim else ()
    return update / jnp.maximum(1.0, jnp.sqrt(jnp.mean(jnp.square(update), axes, keepdims=True)))


def make_optimizer(
    settings: OptimizerSettings, lr: float | optax.Schedule
) -> optax.GradientTransformation:
    """Return the optimizer that the settings describe, at learning rate `lr`.

    Gradients are first clipped to the global norm. Weight decay (`decay_matrices`) is decoupled and
    multiplied by lr.
    """
    s = settings
    store = stored_in_bfloat16 if s.moments == "bfloat16" else lambda inner: inner
    decay, rate = decay_matrices(s.weight_decay), optax.scale_by_learning_rate(lr)
    if s.kind == "adamw":
        optimizer = optax.chain(store(optax.scale_by_adam(s.b1, s.b2, s.eps)), decay, rate)
    elif s.kind == "adafactor":
        optimizer = optax.chain(store(scale_by_adafactor(s.b2, s.momentum)), decay, rate)
    else:
        parts = {
            "muon": optax.chain(store(scale_by_muon(s.turns, s.renew)), decay),
            "adam": store(optax.scale_by_adam(s.b1, s.b2, s.eps)),
        }
        optimizer = optax.chain(optax.partition(parts, muon_labels), rate)
    return optax.chain(clip_by_global_norm(s.clip), optimizer)
