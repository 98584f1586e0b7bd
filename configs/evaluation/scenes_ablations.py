r"""Ablations of the relay cascade on scenes: what each choice of the paper does to the pictures.

    cv3jax ablate --config=scenes_ablations --out runs/ablations

Every point of `sweep()` is a variant: its group, its name, and the fields in which it differs from
the recipe. The first of a group is what the others are compared with. Two groups need runs of
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
    c.base = stage(steps=20, guidance=1.75)
    c.relay = stage(steps=10, guidance=1.5)
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


def stage(*, steps: int, guidance: float) -> ConfigDict:
    """Return how a stage is sampled; a field without a value is the cascade's own."""
    return ConfigDict(
        {
            "steps": steps,
            "guidance": guidance,
            "eta": config_dict.placeholder(float),
            "form": "released",
        }
    )


def sweep():
    """Yield the variants, group by group."""
    for base, relay in ((50, 10), (20, 10), (10, 5), (8, 2), (4, 1)):
        yield variant("steps", f"{base} + {relay}", {"base.steps": base, "relay.steps": relay})
    distilled = {"checkpoint": "scenes", "base.steps": 4, "relay.steps": 1}
    yield variant("steps", "4 + 1, distilled", distilled)
    for steps in (10, 2):
        for form in ("released", "paper"):
            settings = {"relay.steps": steps, "relay.form": form}
            yield variant(f"sampler form, {steps} relay steps", form, settings)
    for w in (1.75, 1.0, 2.5, 5.0):
        yield variant("guidance of the base", f"w = {w:g}", {"base.guidance": w})
    for w in (1.5, 1.0, 3.0):
        yield variant("guidance of the relay", f"w = {w:g}", {"relay.guidance": w})
    # the trained start is 40, and each takes ten steps: the share of the steps is that of the start
    for start in (40, 20, 10):
        share = start / 40
        settings = {"relay.steps": round(10 / share), "relay.strength": share}
        yield variant("relay start, when sampled", f"from {start}", settings)
    for on in (False, True):
        settings = {"prompts": "scenes_short", "metrics": ("named",), "expand.on": on}
        yield variant("expansion", "on" if on else "off", settings)
    for start in (40, 200, 400, 500, 600, 800):
        settings = {"trained": f"schedule.start={start}"}
        yield variant("relay start, when trained", f"from {start}", settings)
    for blur in ("linear", "sigma", "exp"):
        # the recipe that is trained has a linear blur from 40
        run = "schedule.start=40" if blur == "linear" else f"schedule.blur={blur}"
        yield variant("blur form, when trained", blur, {"trained": run})


def variant(group: str, name: str, settings: dict) -> dict:
    """Return a point; fields that have the recipe's value are left out, so that groups share it."""
    own = get_config().to_dict()

    def at(field: str):
        value = own
        for part in field.split("."):
            value = value[part]
        return value

    changed = {field: value for field, value in settings.items() if value != at(field)}
    return {"group": group, "name": name, **changed}
