"""Read the tensors of the released PyTorch model, and compare arrays with them.

A test declares the keys that it reads with `@reads`. It runs once per preset and case, and fails
unless it reads every declared key and no other. So `DECLARED` is the list of keys that tests read,
for any selection and order of tests. test_golden_coverage.py compares it with the files.
"""

import fnmatch
import functools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

# micro: the smallest, distilled (w embedding 512 wide); tiny: the structure of the released UNet;
# tiny2: wider, distilled
PRESETS = ("micro", "tiny", "tiny2")
# Compiling the whole networks of the wider preset: micro is distilled too, tiny has the structure.
WIDER = ("tiny2",)
ROOT = Path(__file__).parents[1] / "golden"
DECLARED: set[tuple[str, str]] = set()  # (preset, key)

# A key with an entry in meta.json's fp64_floor (how far the reference in float32 is from itself in
# float64) may be off by this many times that. "*.traj" takes the larger floor of its first and last
# step.
FLOORS = 30

# The PNGs, which truncate: ±1 on at most this share of pixels. See test_golden_end_to_end.py.
PNG_PIXELS = 1e-3

# Every other key: (atol, rtol, reason). The first pattern that fits counts.
TOLERANCES = {
    "*.timesteps": (0, 0, "integers"),
    "*.input_ids": (0, 0, "integers"),
    "*.c_noise_idx": (0, 0, "integers"),
    "sched.alphas_cumprod_f64": (1e-7, 0, "ours is recovered from σ in float32; values up to 1"),
    "denoiser.sigmas": (0, 2e-7, "float64 until the last two roundings, on both sides"),
    "den.sigma_quantized": (0, 2e-7, "as denoiser.sigmas"),
    "sigmas.*": (0, 2e-7, "as denoiser.sigmas"),
    "den.out": (6e-4, 0, "the network's own tolerance, 30 × 1.3e-6, times σ = 14.6"),
    "den.c_*": (1e-7, 2e-7, "a few roundings of float32"),
    "den.w": (0, 3e-7, "a few roundings of float32; up to 4e6"),
    "temb.*": (
        6.2e-5,
        0,
        (
            "the last bit of the reference's float32 frequency, ours being correctly rounded,"
            " times 999"
        ),
    ),
    "cte.out": (1.3e-4, 0, "the last bit of a frequency times 2048"),
    "*.vector": (1.3e-4, 0, "as cte.out"),
    "*.y": (1.3e-4, 0, "as cte.out"),
    "gse.7*": (1e-6, 0, "three frequencies only; the reference's own error is 1.4e-7"),
    "gse.*.exact_f64": (
        1e-3,
        0,
        "the float32 rounding of the released frequencies; the reference is 8e-4 from exact",
    ),
    "gse.*": (8.5e-4, 0, "the last bit of a frequency times 14000"),
    "*.scale_emb": (4.5e-4, 0, "the last bit of a frequency times 7500"),
    "mod.downsample.out": (1e-6, 0, "one convolution, outputs up to 0.2"),
    "mod.upsample.out": (1e-6, 0, "one convolution, outputs up to 0.2"),
    "mod.*": (
        5e-5,
        0,
        (
            "inputs of 2e-3 amplified by a norm to outputs up to 6; the wrong epsilon is off by 16"
            " to 54 %"
        ),
    ),
    "vae.latent": (1e-5, 0, "vae.moments' tolerance times the latent scale 0.13"),
    "vae.*": (7e-5, 0, "the same network as vae.moments, whose 30 floors these are"),
    "dgd.std_f64": (0, 1e-6, "an exponential in float32; up to 2.2e4"),
    "dgd.*": (0, 0, "a split and a clamp"),
    "interp.*": (1e-6, 0, "sums of four products, values of order 1"),
    "text.emb": (1.5e-4, 0, "as t5.out_nomask of micro, 30 floors"),
    "cond.c.crossattn": (1.5e-4, 0, "as text.emb"),
    "cond.uc.crossattn": (0, 0, "zeros"),
    "loss.*.grad_norms": (
        1e-7,
        1e-5,
        "float32 sums over each tensor; those that are zero but for rounding are about 1e-9",
    ),
    "loss.*.grad.*": (1e-6, 1e-5, "a backward pass in float32; the largest are 0.005 and 0.1"),
    "train.lr_latent": (1e-5, 0, "as vae.latent"),
    "train.loss_mean": (1e-5, 0, "both latents are off by up to 1e-5"),
    "e2e.relay.upsampled": (1e-6, 0, "as interp.*"),
    "e2e.relay.image_latent": (1e-5, 0, "as vae.latent"),
    "e2e.base.latent": (4e-3, 0, "as the samplers, whose 30 floors are up to 4.2e-3"),
    "e2e.base.decoded": (3e-4, 0, "the latent's error, which the decoder turns into a tenth of it"),
    "e2e.relay.latent": (3e-4, 0, "as relay_cfg and relay_distill, 30 floors"),
    "e2e.relay.decoded": (1e-4, 0, "as vae.decode_mode and the latent's error"),
}


def tolerance(preset: str, key: str) -> tuple[float, float]:
    """Return (atol, rtol) of a key; raise KeyError if no pattern matches it."""
    floors = meta(preset)["fp64_floor"]
    stem = key.removesuffix(".traj")
    own = [
        floors[name]["max_abs"]
        for name in ((key,) if stem == key else (f"{stem}.step1", f"{stem}.final"))
        if name in floors
    ]
    if own:
        return FLOORS * max(own), 0.0
    for pattern, (atol, rtol, _) in TOLERANCES.items():
        if fnmatch.fnmatchcase(key, pattern):
            return atol, rtol
    raise KeyError(f"no floor and no tolerance for {key}")


@functools.cache
def meta(preset: str) -> dict:
    return json.loads((ROOT / preset / "meta.json").read_text())


@functools.cache
def weights_spec(preset: str) -> dict:
    return json.loads((ROOT / preset / "weights_spec.json").read_text())


@functools.cache
def arrays(preset: str) -> dict[str, np.ndarray]:
    with np.load(ROOT / preset / "golden.npz") as file:
        return dict(file)


class Golden:
    """Hold the keys that one test may read.

    Arrays have torch's stored layout NCHW; `nhwc` and `check_nhwc` convert them to ours.
    """

    def __init__(self, preset: str, keys: set[str]):
        self.preset, self.meta = preset, meta(preset)
        self.unread, self._keys = set(keys), keys

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._keys:
            raise KeyError(f"{key} is not among the keys this test declares")
        self.unread.discard(key)
        value = arrays(self.preset)[key]
        return value.astype(np.int32) if value.dtype == np.int64 else value

    def has(self, key: str) -> bool:
        return key in self._keys

    def nhwc(self, key: str) -> np.ndarray:
        """Return an array [..., C, H, W] as [..., H, W, C]."""
        return np.moveaxis(self[key], -3, -1)

    def check(self, key: str, ours) -> None:
        """Raise AssertionError unless `ours` is within tolerance of the key's array."""
        self._compare(key, ours, self[key])

    def check_nhwc(self, key: str, ours) -> None:
        self._compare(key, ours, self.nhwc(key))

    def check_first_step(self, name: str, ours) -> None:
        """Check the first step of a trajectory.

        It has an absolute tolerance of its own, smaller than that of the whole.
        """
        self._compare(f"{name}.step1", ours, self.nhwc(f"{name}.traj")[0])

    def _compare(self, key: str, ours, wanted: np.ndarray) -> None:
        atol, rtol = tolerance(self.preset, key)
        ours = np.asarray(ours)
        assert ours.shape == wanted.shape, f"{key}: shape {ours.shape}, golden {wanted.shape}"
        np.testing.assert_allclose(
            ours, wanted, atol=atol, rtol=rtol, err_msg=f"{self.preset} {key}"
        )


def reads(
    *patterns: str,
    case: tuple[str, ...] = ("",),
    presets: tuple[str, ...] = PRESETS,
    slow: tuple[str, ...] = (),
) -> Callable:
    """Parametrise a test `(g)` or, with cases, `(g, case)`.

    `{}` in a pattern stands for the case, `*` for anything. The cases of presets that are `slow`
    run in `make test-all`. Presets that have no key for a pattern of the case are left out (tiny
    has no distilled model, for example).
    """

    def decorate(test):
        runs = []
        for preset in presets:
            for one in case:
                matches = [
                    set(fnmatch.filter(arrays(preset), pattern.replace("{}", one)))
                    for pattern in patterns
                ]
                if all(matches):
                    runs.append(
                        pytest.param(
                            preset,
                            one,
                            set.union(*matches),
                            id=f"{preset}-{one}" if one else preset,
                            marks=[pytest.mark.slow] if preset in slow else [],
                        )
                    )
                    DECLARED.update((preset, key) for key in set.union(*matches))
        if not runs:
            raise ValueError(f"no golden has all of {patterns}")

        @pytest.mark.parametrize(("preset", "one", "keys"), runs)
        def run(preset, one, keys):
            g = Golden(preset, keys)
            test(g, one) if one else test(g)
            assert not g.unread, f"declared but not read: {sorted(g.unread)}"

        run.__name__, run.__doc__ = test.__name__, test.__doc__
        return run

    return decorate
