"""Measure what distillation saves and what it costs, over the same held-out captions and seeds.

"full" is the undistilled cascade in many guided steps. The other samplers are judged by their own
pictures, and by how far these are from full's.
"""

import dataclasses
import functools
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cv3jax.cascade.parts import load_params
from cv3jax.cascade.pipeline import Cascade
from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.checkpoints import cascades
from cv3jax.evaluation.image_metrics import image_distance
from cv3jax.evaluation.scenes import BATCH, batches, judged_scenes
from data_pipeline.scenes import grammar
from data_pipeline.scenes.judge import judge

FULL = "full"
# parts that are timed by themselves; noise and enlargement count in the total only
PARTS = ("text", "base", "relay", "vae")
SHOWN = 6  # captions in the picture: the first of the judged ones
# batches of the single-stage model, the first untimed; its 20 steps take as long as everything else
DIRECT = 2


class Sampler(NamedTuple):
    """The base and relay stages that draw, their numbers of steps and their guidance weights."""

    stages: tuple[str, str]
    steps: tuple[int, int]
    guidance: tuple[float, float]


class Laps:
    """The seconds of each part, taken when the part's result is computed."""

    def __init__(self):
        """Start the clock."""
        self.seconds: dict[str, float] = {}
        self._began = time.perf_counter()

    def __call__(self, part: str, value):
        """Return `value` once it is computed; the time since the last call counts for `part`."""
        jax.block_until_ready(value)
        now = time.perf_counter()
        self.seconds[part] = self.seconds.get(part, 0.0) + now - self._began
        self._began = now
        return value


def with_rounds(cascade: Cascade, rounds: dict[tuple[int, int], tuple[Path, Path]]) -> Cascade:
    """Return the cascade with the stages of its rounds added, as "base_4" and "relay_1".

    So all share the compiled functions. rounds: (base, relay) steps → the cascades that hold them.
    """
    stages, params = dict(cascade.description.stages), dict(cascade.params)
    for steps, places in rounds.items():
        for part, name, place in zip(("base", "relay"), _names(steps), places, strict=True):
            directory, description = cascades.read_cascade(place)
            stages[name] = description.stages[part]
            params[name] = load_params(directory, description, (part,))[0][part]
    description = dataclasses.replace(cascade.description, stages=stages)
    return Cascade(description, params, cascade.tokenize)


def _names(steps: tuple[int, int]) -> tuple[str, str]:
    return f"base_{steps[0]}", f"relay_{steps[1]}"


def compared(
    cascade: Cascade, full: tuple[int, int], rounds: list[tuple[int, int]]
) -> dict[str, Sampler]:
    """Return the samplers to compare, by name.

    For rounds (8, 2), (4, 1) they are full, undistilled_8_2, undistilled_4_1, distilled_8_2,
    distilled_4_1, and the last of each at w = 1. All but those two are guided as the cascade says.
    `cascade` is one of `with_rounds`.
    """
    own, last = ("base", "relay"), rounds[-1]
    w = tuple(cascade.description.stages[name].guidance for name in own)
    return {
        FULL: Sampler(own, full, w),
        **{f"undistilled_{b}_{r}": Sampler(own, (b, r), w) for b, r in rounds},
        **{f"distilled_{b}_{r}": Sampler(_names((b, r)), (b, r), w) for b, r in rounds},
        f"undistilled_{last[0]}_{last[1]}_w1": Sampler(own, last, (1.0, 1.0)),
        f"distilled_{last[0]}_{last[1]}_w1": Sampler(_names(last), last, (1.0, 1.0)),
    }


def sample(
    cascade: Cascade, sampler: Sampler, captions: list[str], seeds: np.ndarray
) -> tuple[np.ndarray, dict[str, float]]:
    """Return (the final images, uint8 [B, S, S, 3]; seconds by PARTS and "rest").

    The images are those of `Cascade.generate`.
    """
    (base, relay), (many, few), (w_base, w_relay) = sampler
    side, lap = cascade.description.stages["base"].image_size, Laps()
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    noise = lap("rest", cascade.noise(keys, side))
    text = lap("text", cascade.text(captions))
    settings = SamplerSettings(many, w_base)
    latents = lap("base", cascade.stage(base, text, keys, noise, settings=settings))
    small = lap("vae", cascade.decode(latents))
    settings = SamplerSettings(few, w_relay)
    large = cascade.timed_by(lap).enlarge(
        text, keys, small, final=True, name=relay, settings=settings
    )
    return large["relay"], lap.seconds


def sample_directly(
    cascade: Cascade, steps: int, captions: list[str], seeds: np.ndarray
) -> dict[str, float]:
    """Return the seconds by part of a single-stage model at the relay's side.

    It is the base's network on latents of that side; its pictures are of no use.
    """
    lap = Laps()
    keys = jax.vmap(jax.random.key)(jnp.asarray(seeds, jnp.uint32))
    noise = lap("rest", cascade.noise(keys, 2 * cascade.description.stages["base"].image_size))
    text = lap("text", cascade.text(captions))
    latents = lap("base", cascade.stage("base", text, keys, noise, settings=SamplerSettings(steps)))
    lap("vae", cascade.decode(latents))
    return lap.seconds


def assess_distilled(
    cascade: Cascade, samplers: dict[str, Sampler], *, count: int, seed: int
) -> tuple[dict, dict]:
    """Compare the samplers over `count` held-out captions.

    Returns ({"distilled", "single_stage"} of report.json; {"prompts", "rows"} of SHOWN captions,
    for people).

    distilled, by sampler: "right" is 1 for a picture that is right, else 0; "all" is their share;
    "se" is the standard error of its paired difference from full's; "image_distance" is the root
    mean square difference of the final pictures from full's in 0..1, averaged over images;
    "seconds" is the time per image at "batch" without compilation, as the median over batches.

    single_stage: the time of the base's network in as many steps at the final side, for which it is
    not trained. The samplers take turns at every batch, so that other work of the machine affects
    them alike.
    """
    captions = [grammar.caption(scene) for scene in judged_scenes(count, seed)]
    made, laps, direct = {name: [] for name in samplers}, {name: [] for name in samplers}, []
    turns = batches(count)
    # the first compiles, and is not timed
    for number, rows in enumerate(turns if len(turns) > 1 else [*turns, *turns]):
        texts, seeds = [captions[i] for i in rows], (seed + rows) % 2**32
        with ThreadPoolExecutor(1 if number else 2) as workers:  # compiling keeps one core busy
            results = list(
                workers.map(
                    functools.partial(sample, cascade, captions=texts, seeds=seeds),
                    samplers.values(),
                )
            )
        for name, (images, seconds) in zip(samplers, results, strict=True):
            made[name].append(images)
            laps[name].append(seconds)
        if number < DIRECT:
            direct.append(sample_directly(cascade, samplers[FULL].steps[0], texts, seeds))
    images = {name: np.concatenate(parts)[:count] for name, parts in made.items()}
    right = {
        name: np.array([judge(*pair)["all"] for pair in zip(some, captions, strict=True)], float)
        for name, some in images.items()
    }
    figures = {
        name: {
            "all": float(right[name].mean()),
            "right": right[name].astype(int).tolist(),
            "se": float(np.std(right[name] - right[FULL], ddof=1) / np.sqrt(count)),
            "image_distance": image_distance(images[name], images[FULL]),
            **dict(zip(("steps", "guidance"), map(list, sampler[1:]), strict=True)),
            "batch": BATCH,
            "seconds": per_image(laps[name][1:]),
        }
        for name, sampler in samplers.items()
    }
    steps, w = (figures[FULL][key][0] for key in ("steps", "guidance"))
    single = {
        "side": images[FULL].shape[1],
        "steps": steps,
        "guidance": w,
        "batch": BATCH,
        "seconds": per_image(direct[1:]),
    }
    shown = {
        "prompts": captions[:SHOWN],
        "rows": {name: some[:SHOWN] for name, some in images.items()},
    }
    return {"distilled": figures, "single_stage": single}, shown


def per_image(laps: list[dict[str, float]]) -> dict[str, float]:
    """Return PARTS and "total" of one image.

    They are medians over batches; the total is their sum with the rest.
    """
    medians = {
        part: float(np.median([seconds[part] for seconds in laps])) / BATCH for part in laps[0]
    }
    return {
        **{part: medians[part] for part in PARTS if part in medians},
        "total": sum(medians.values()),
    }
