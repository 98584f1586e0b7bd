"""Compare train states bit for bit, and metrics without their times."""

from pathlib import Path

import jax
import numpy as np

from cv3jax.checkpoints import runs


def raw(x: jax.Array) -> jax.Array:
    """Return the array itself; of a PRNG key, its data."""
    return jax.random.key_data(x) if jax.dtypes.issubdtype(x.dtype, jax.dtypes.prng_key) else x


def name_of(path: tuple) -> str:
    """Return a path in a tree, equal for fields of a class and keys of a dict."""
    return "/".join(str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", k)))) for k in path)


def named_leaves(state) -> dict[str, np.ndarray]:
    """Return the leaves of a train state by name.

    The state may have its class, or the dicts that orbax reads without one.
    """
    return {
        name_of(path): np.asarray(raw(value))
        for path, value in jax.tree.flatten_with_path(state)[0]
    }


def leaves(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """Return everything in a checkpoint's train state by its path, as it was saved."""
    manager = runs.open_manager(workdir / "checkpoints")
    whole = jax.sharding.SingleDeviceSharding(jax.devices()[0])  # for what other processes saved
    args = runs.ocp.args.StandardRestore(fallback_sharding=whole)
    state = manager.restore(step, args=runs.ocp.args.Composite(state=args)).state
    manager.close()
    return named_leaves(state)


# how the names of figures begin that no two runs have alike
TIMED = ("seconds", "goodput", "data_wait", "images_per_second", "tflops", "mfu", "memory_")


def untimed(lines: list[dict]) -> list[dict]:
    """Return lines of metrics without the fields that depend on the clock."""
    return [
        {name: value for name, value in line.items() if not name.startswith(TIMED)}
        for line in lines
    ]


def assert_equal(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        np.testing.assert_array_equal(value, theirs[name], err_msg=name, strict=True)
