"""Compare the choices of operations that XLA hands to YNN on this CPU (`backend.tune_cpu`).

    python benchmarks/cpu_flags.py --rounds 3

The figures are seconds of the gradient and of the optimizer step of a small base stage. Each round
times every choice once, each in a process of its own. Prints every round, the ratio of each choice,
and its spread.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import jax
import jax.numpy as jnp

from cv3jax.cascade.parts import build_model, unet_init
from cv3jax.configs import scenes_base, scenes_vae
from cv3jax.models.unet import UNet
from cv3jax.models.vae import Autoencoder
from cv3jax.optim.learning_rate import learning_rate
from cv3jax.optim.optimizers import OptimizerSettings, make_optimizer
from cv3jax.quickstart.environment import environment

YNN, OURS = "--xla_cpu_experimental_ynn_fusion_type=", "products, sums"
FLAGS = {
    "XLA's default": "",
    "none": YNN,
    "sums": f"{YNN}LIBRARY_FUSION_TYPE_REDUCE",
    OURS: f"{YNN}LIBRARY_FUSION_TYPE_REDUCE,LIBRARY_FUSION_TYPE_INDIVIDUAL_DOT",
}


def measure(repeats: int) -> dict[str, float]:
    """Return the shortest of `repeats` times of the gradient and of the optimizer step.

    Both are compiled before they are timed, in this process.
    """
    c = scenes_base.get_config()
    vae = build_model(Autoencoder, scenes_vae.get_config().model.to_dict())
    model = build_model(UNet, c.model.to_dict(), out_channels=vae.z_channels)
    params = jax.jit(unet_init(model, c.text.channels))(jax.random.key(0))
    side, batch = c.data.image_size // vae.factor, c.batch.size
    x = jax.random.normal(jax.random.key(1), (batch, side, side, model.out_channels))
    cond = {
        "text": jax.random.normal(jax.random.key(2), (batch, c.text.length, c.text.channels)),
        "vector": jnp.ones((batch, 1536)),
    }
    optimizer = make_optimizer(
        OptimizerSettings(c.optim.kind),
        learning_rate(c.optim.lr, warmup=1, decay="constant", steps=10),
    )
    gradient = jax.jit(
        jax.grad(
            lambda p: (model.apply({"params": p}, x, jnp.zeros(batch, jnp.int32), cond) ** 2).mean()
        )
    )
    update = jax.jit(optimizer.update)
    opt_state = optimizer.init(params)

    def least(call) -> float:
        jax.block_until_ready(call())
        seconds = []
        for _ in range(repeats):
            began = time.perf_counter()
            jax.block_until_ready(call())
            seconds.append(time.perf_counter() - began)
        return min(seconds)

    return {
        "gradient": least(lambda: gradient(params)),
        "optimizer": least(lambda: update(params, opt_state, params)),
    }


def main() -> None:
    """Run the benchmark from the command line and print its figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--repeats",
        type=int,
        default=10,
        help="of each call, of which the fastest counts (default: 10)",
    )
    # what the rounds start
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args.repeats)))
        return
    print(json.dumps(environment()))
    ratios: dict[tuple[str, str], list[float]] = {}
    for number in range(args.rounds):
        took = {}
        for name, flags in FLAGS.items():
            command = [sys.executable, __file__, "--one", "--repeats", str(args.repeats)]
            done = subprocess.run(
                command,
                env={**os.environ, "XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"},
                capture_output=True,
                check=True,
            )
            took[name] = json.loads(done.stdout)
            print(
                f"round {number + 1}  {name:<16}"
                + "  ".join(f"{part} {value:.3f} s" for part, value in took[name].items()),
                flush=True,
            )
        for name in FLAGS:
            for part, value in took[name].items():
                ratios.setdefault((part, name), []).append(value / took[OURS][part])
    for (part, name), values in ratios.items():
        if name != OURS:
            print(
                f"{part}: {name} takes {statistics.median(values):.2f} times as long as {OURS}"
                f" ({min(values):.2f} to {max(values):.2f})"
            )


if __name__ == "__main__":
    main()
