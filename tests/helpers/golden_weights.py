"""Generate the weights that belong to the golden tensors.

Each is a pure function of seed, file, name and shape, so none is stored.
"""

import hashlib

import numpy as np


def normal(tag: str, n: int) -> np.ndarray:
    """Return n nearly normal numbers.

    Each is the sum of the four 16-bit parts of a Philox word, a stream that NumPy keeps stable.
    """
    key = np.frombuffer(hashlib.sha256(tag.encode()).digest()[:16], dtype="<u8")
    words = np.random.Philox(key=key).random_raw(n)
    total = sum(
        ((words >> np.uint64(16 * k)) & np.uint64(0xFFFF)).astype(np.float64) for k in range(4)
    )
    return (total - 131070.0) / np.sqrt(4 * (65536.0**2 - 1) / 12)


def _tensor(seed: int, file: str, name: str, shape: tuple[int, ...], gain: float) -> np.ndarray:
    z = normal(f"{seed}|{file}|{name}|{shape}", int(np.prod(shape))).reshape(shape)
    if name.endswith("relative_attention_bias.weight"):
        z = 0.7 * z
    elif len(shape) == 1:  # scales of norms, then biases
        z = 1.0 + 0.15 * z if name.endswith("weight") else 0.08 * z
    elif not name.endswith(("shared.weight", "embed_tokens.weight")):
        z = gain * z / np.sqrt(int(np.prod(shape[1:])))
    # checkpoints in half and single precision hold the same numbers
    return z.astype(np.float16).astype(np.float32)


def build(spec: dict) -> dict[str, np.ndarray]:
    """Return {torch name: float32 array} of one file of weights_spec.json.

    Raises:
        ValueError: if the bytes are not those of the spec.
    """
    tensors = {
        name: _tensor(spec["seed"], spec["file"], name, tuple(p["shape"]), p["gain"])
        for name, p in spec["params"].items()
    }
    digest = hashlib.sha256()
    for name in sorted(tensors):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(tensors[name], dtype="<f4").tobytes())
    if digest.hexdigest() != spec["sha256"]:
        raise ValueError(
            f"the weights of {spec['file']} are not the ones its goldens were made with"
        )
    return tensors
