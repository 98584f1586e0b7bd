"""Measure how well a cascade of scenes follows its prompts, with the pixel judge.

The captions are held out. There are ceilings: real renders, and their round trip through the
autoencoder. And there are controls of the relay: the round trip of the enlarged base picture (the
decoder alone sharpens), and that plus white noise with the energy of the relay's residual (any
residual might flatter the score).
"""

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.stage_sampler import fold
from cv3jax.diffusion.pixels import to_pixels
from cv3jax.evaluation.image_metrics import psnr
from data_pipeline.scenes import grammar
from data_pipeline.scenes.judge import PROPERTIES, altered_rates, judge
from data_pipeline.scenes.render import render

# images sampled at a time; it divides the quickstart's 200, and the 12 shown fit into it
BATCH = 25
SEED = 1  # added to the run's own seed, so that no shown scene is judged


def judged_scenes(count: int, seed: int) -> list[grammar.Scene]:
    """Return held-out scenes, plain and textured in turn."""
    return [
        grammar.sample_scene(seed + SEED, i, split="heldout", textured=float(i % 2))
        for i in range(count)
    ]


def draw_captions(cascade: Cascade, captions: list[str], seed: int) -> dict[str, np.ndarray]:
    """Return what `Cascade.generate` makes of the captions; image i has the seed `seed` + i."""
    parts = []
    for rows in batches(len(captions)):
        parts.append(
            cascade.generate([captions[i] for i in rows], [(seed + int(i)) % 2**32 for i in rows])
        )
    return {key: np.concatenate([part[key] for part in parts])[: len(captions)] for key in parts[0]}


def round_trip(cascade: Cascade, images: np.ndarray) -> np.ndarray:
    """Return images uint8 [N, S, S, 3] after the autoencoder's encoding and decoding."""
    backs = []
    for rows in batches(len(images)):
        keys = fold(jax.vmap(jax.random.key)(jnp.asarray(rows)), 0)
        backs.append(
            cascade.decode(
                cascade.encode(
                    to_pixels(jnp.asarray(images[rows])), cascade.noise(keys, images.shape[1])
                )
            )
        )
    return np.concatenate(backs)[: len(images)]


def batches(count: int) -> np.ndarray:
    """Return the rows of each batch, [batches, BATCH].

    The last batch is filled up with the last row, so that all share one compilation.
    """
    return np.minimum(np.arange(-(-count // BATCH) * BATCH), count - 1).reshape(-1, BATCH)


def with_noise(images: np.ndarray, like: np.ndarray, seed: int) -> np.ndarray:
    """Return uint8 images plus white noise with the energy of their difference from `like`.

    The energy (mean square) is matched in each image, after clipping to 0..255.
    """
    noise = np.random.default_rng(seed).standard_normal(images.shape)
    noisy = np.empty_like(images)
    for i, (image, other) in enumerate(zip(images.astype(np.float64), like, strict=True)):
        wanted, least, most = np.mean((other - image) ** 2), 0.0, 512.0
        # a white background loses half of the noise to clipping, so the amplitude is searched for
        for _ in range(20):
            amplitude = (least + most) / 2
            noisy[i] = np.clip(np.rint(image + amplitude * noise[i]), 0, 255)
            least, most = (
                (amplitude, most)
                if np.mean((noisy[i] - image) ** 2) < wanted
                else (least, amplitude)
            )
    return noisy


def assess(cascade: Cascade, *, count: int, seed: int) -> dict:
    """Return {"n", "vae_psnr", "prompt_following", "detail"} of report.json.

    They are measured over `count` held-out captions, plain and textured in turn.

    prompt_following: the share of right pictures, by property. "real", "relay" and "control" are at
    the cascade's final side; "vae" (the round trip of real renders, which is what the base could
    reach) and "base" are at the base's side; "vae_final" is the round trip at the final side.
    "real_altered" is the share of real renders that are rejected when the caption is altered in
    that property.

    detail: the share with textures and outlines right, at the final side. "se" is the larger
    standard error of the relay's paired lead.
    """
    shown = judged_scenes(count, seed)
    captions = [grammar.caption(scene) for scene in shown]
    made = draw_captions(cascade, captions, seed)
    sides = {name: made[name].shape[1] for name in ("base", "relay")}
    real = {
        name: np.stack([render(scene, side) for scene in shown]) for name, side in sides.items()
    }
    backs = {name: round_trip(cascade, images) for name, images in real.items()}
    noise = with_noise(made["round_trip"], made["relay"], seed)
    sets = {
        "real": real["relay"],
        "vae": backs["base"],
        "vae_final": backs["relay"],
        "base": made["base"],
        "control": made["round_trip"],
        "noise_control": noise,
        "relay": made["relay"],
    }
    verdicts = {
        name: [judge(image, text) for image, text in zip(images, captions, strict=True)]
        for name, images in sets.items()
    }
    right = {
        name: np.array([v["detail"] for v in said], float)
        for name, said in verdicts.items()
        if name not in ("vae", "base")
    }
    leads = [right["relay"] - right[name] for name in ("control", "noise_control")]
    following = {
        name: {key: float(np.mean([v[key] for v in said])) for key in (*PROPERTIES, "all")}
        for name, said in verdicts.items()
        if name != "noise_control"
    }
    return {
        "n": count,
        "vae_psnr": {str(side): psnr(real[name], backs[name]) for name, side in sides.items()},
        "prompt_following": {
            **following,
            "real_altered": altered_rates(real["relay"], captions, seed),
        },
        "detail": {
            **{name: float(values.mean()) for name, values in right.items()},
            "se": max(float(lead.std(ddof=1) / np.sqrt(count)) for lead in leads),
        },
    }
