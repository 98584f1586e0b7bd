"""What the sections of `cascade.json` must hold: names become paths, and values become sizes.

`description_fields` has the range of each field. This module has what they must be to each other.
"""

from typing import Any

from cv3jax.checkpoints import description_fields as fields
from cv3jax.checkpoints.description_fields import STAGES, Fields, filled

MODELS = {"vae": fields.AUTOENCODER, "t5": fields.T5}  # others are UNets


def widened(value: dict) -> dict:
    """Return a description of format 1 with the text width that its stages lack.

    Its stages always stood beside the text encoder whose features they read.
    """
    try:
        width, stages = value["t5"]["model"]["channels"], value["stages"].items()
    except (AttributeError, KeyError, TypeError):  # the checks after this say what is wrong
        return value
    wide = {
        name: {"text_width": width, **stage} if isinstance(stage, dict) else stage
        for name, stage in stages
    }
    return {**value, "stages": wide}


def misfit(value: dict) -> str | None:
    """Return what is wrong with a description that others wrote, or None."""
    stages = value.get("stages")
    if not isinstance(stages, dict) or (foreign := sorted(set(stages) - set(STAGES))):
        return f"stages may be {' and '.join(STAGES)} only" + (
            f", not {foreign[0][:40]!r}" if isinstance(stages, dict) else ""
        )
    if unknown := sorted(value.keys() - {"format", "vae", "t5", "stages"}):
        return _unknown("the cascade", unknown[0], ("vae", "t5", "stages"))
    sections = {name: value[name] for name in ("vae", "t5") if name in value}
    tables = {"vae": fields.VAE, "t5": fields.TEXT}
    for name, section in {**sections, **stages}.items():
        if problem := wrong_field(section, tables.get(name, fields.STAGE), name):
            return problem
        if problem := wrong_model(section["model"], name):
            return problem
        distilled, place = section.get("distilled", {}), f"the distillation of {name}"
        if "distilled" in section and (problem := wrong_field(distilled, fields.DISTILLED, place)):
            return problem
    if "vae" in value and (problem := _wrong_preview(value["vae"])):
        return problem
    own = {name: filled(section["model"], MODELS[name]) for name, section in sections.items()}
    checked = (_wrong_stage(name, stage, own) for name, stage in stages.items())
    return next(filter(None, checked), None)


def wrong_field(section: Any, table: Fields, name: str) -> str | None:
    """Return which field of a section is missing, unknown or out of its range, or None."""
    if not isinstance(section, dict):
        return f"{name} is {_shown(section)}, but must be an object"
    if unknown := sorted(section.keys() - table.keys()):
        return _unknown(name, unknown[0], table)
    for field, (_, rule, default) in table.items():
        if field not in section:
            if default is fields.REQUIRED:
                return f"the field {field!r} of {name} is missing"
        elif not rule.fits(section[field]):
            return f"{field} of {name} is {_shown(section[field])}, but must be {rule.right}"
    return None


def wrong_model(model: dict, name: str) -> str | None:
    """Return what is wrong with the sizes of a network, or None. name: its part."""
    table = MODELS.get(name, fields.UNET)
    if problem := wrong_field(model, table, f"the model of {name}"):
        return problem
    sizes = filled(model, table)
    if name == "t5":
        if sizes["max_distance"] <= sizes["buckets"] // 4:
            return _relation(name, "max_distance", sizes, "above a quarter of buckets")
        return None
    channels, mults, groups = sizes["channels"], sizes["channel_mult"], sizes["groups"]
    widths = [channels * mult for mult in (1, *mults)]
    if groups and any(width % groups for width in widths):
        return _relation(name, "groups", sizes, f"a divisor of the channels {set_of(widths)}")
    if name == "vae":
        return None
    depth, head = sizes["depth"], sizes["head_dim"]
    if len(depth) != len(mults):
        return _relation(name, "depth", sizes, f"as long as channel_mult, {len(mults)} numbers")
    attending = [w for w, blocks in zip(widths[1:], depth, strict=True) if blocks]
    attending += [widths[-1]] if sizes["mid_depth"] else []
    if any(width % head for width in attending):
        return _relation(name, "head_dim", sizes, f"a divisor of the channels {set_of(attending)}")
    return _relation(name, "channels", sizes, "even") if channels % 2 else None


def set_of(numbers: list[int]) -> str:
    """Return numbers for a message, each once."""
    return ", ".join(map(str, dict.fromkeys(numbers)))


def _wrong_stage(name: str, stage: dict, own: dict[str, dict]) -> str | None:
    """Return how a stage contradicts itself or the parts beside it, or None.

    own: the sizes of vae and t5, as far as they are there.
    """
    sizes = filled(stage["model"], fields.UNET)
    step = stage["factor"] * 2 ** (len(sizes["channel_mult"]) - 1)
    blur, distilled = stage.get("blur"), stage.get("distilled")
    width = own["t5"]["channels"] if "t5" in own else stage["text_width"]
    if width != stage["text_width"]:
        return (
            f"the {name} reads text features of width {stage['text_width']}, but t5 makes width"
            f" {width}"
        )
    if "vae" in own:
        factor = own["vae"]["patch"] * 2 ** (len(own["vae"]["channel_mult"]) - 1)
        if stage["factor"] != factor:
            return _relation(name, "factor", stage, f"the autoencoder's, {factor}")
        if sizes["out_channels"] != own["vae"]["z_channels"]:
            right = f"the z_channels of the autoencoder, {own['vae']['z_channels']}"
            return _relation(name, "out_channels", sizes, right)
    if stage["image_size"] % step:
        return _relation(name, "image_size", stage, f"a multiple of {step}")
    if name == "base" and stage["kind"] != "base":
        return _relation(name, "kind", stage, "base")
    if blur is not None and (stage["kind"] == "relay") != (blur != "none"):
        right = "none for a base stage" if stage["kind"] == "base" else "another one for a relay"
        return _relation(name, "blur", stage, right)
    if stage["kind"] == "relay" and stage["steps"] > stage["start"]:
        return _relation(name, "steps", stage, f"at most start, {stage['start']}")
    if stage.get("zero_snr") and stage["kind"] != "base":
        return _relation(name, "zero_snr", stage, "false for a relay, which starts from a picture")
    if stage.get("zero_snr") and stage["prediction"] != "v":
        return _relation(name, "prediction", stage, "v with zero_snr: eps says nothing of x0 there")
    if stage.get("guidance_rescale") and (distilled or sizes["w_dim"]):
        return _relation(name, "guidance_rescale", stage, "0 for a stage that needs no guidance")
    if distilled and distilled["steps"] != stage["steps"]:
        return _relation(name, "steps", stage, f"those it was distilled to, {distilled['steps']}")
    if distilled and (w := distilled["w"]) and not w[0] <= stage["guidance"] <= w[1]:
        return _relation(name, "guidance", stage, f"in the range that it was distilled for, {w}")
    return None


def _wrong_preview(vae: dict) -> str | None:
    rows, wanted = vae.get("preview"), filled(vae["model"], fields.AUTOENCODER)["z_channels"] + 1
    if rows is not None and len(rows) != wanted:
        return f"preview of vae has {len(rows)} rows, but must have {wanted}"
    return None


def _relation(name: str, field: str, values: dict, right: str) -> str:
    return f"{field} of {name} is {_shown(values[field])}, but must be {right}"


def _unknown(where: str, field: str, known: Any) -> str:
    return f"{where} has an unknown field {field[:40]!r}; it may have {', '.join(known)}"


def _shown(value: Any) -> str:
    """Return a value for a message: a short one itself, else its type."""
    if isinstance(value, str):
        return repr(value[:40])
    if value is None or isinstance(value, (int, float)):
        return f"{value}"
    short = isinstance(value, (list, tuple)) and len(value) <= 8
    if short and all(isinstance(x, (int, float)) for x in value):
        return f"{list(value)}"
    return f"a value of type {type(value).__name__}"
