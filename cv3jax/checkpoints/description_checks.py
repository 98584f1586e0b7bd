"""What the sections of `cascade.json` must hold: names become paths, and values become sizes."""

import math
from typing import Any

STAGES = ("base", "relay")
NUMBER = (int, float)
FIELDS = {  # what a description must hold, and the type of each
    "vae": {"model": dict, "scale": NUMBER},
    "t5": {"model": dict, "length": int},
    "stage": {
        "kind": str,
        "model": dict,
        "text_width": int,
        "prediction": str,
        "factor": int,
        "image_size": int,
        "start": int,
        "steps": int,
        "guidance": NUMBER,
        "eta": NUMBER,
        "form": str,
    },
}


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
    """Return what is wrong with a description that others wrote, or None.

    Its names become paths, and its values become sizes.
    """
    stages = value.get("stages")
    if not isinstance(stages, dict) or (foreign := sorted(set(stages) - set(STAGES))):
        return f"stages may be {' and '.join(STAGES)} only" + (
            f", not {foreign[0]!r}" if isinstance(stages, dict) else ""
        )
    sections = {
        **{name: FIELDS[name] for name in ("vae", "t5") if name in value},
        **dict.fromkeys(stages, FIELDS["stage"]),
    }
    for name, fields in sections.items():
        section = stages[name] if name in stages else value[name]
        for field, kinds in fields.items():
            if not isinstance(section, dict) or not isinstance(section.get(field), kinds):
                return f"the field {field!r} of {name} is missing or wrong"
    if (vae := value.get("vae", {})).get("preview") is not None and not _is_preview(vae):
        return "the field 'preview' of vae is wrong"
    for name, stage in stages.items():
        if "distilled" in stage and not _is_distilled(stage["distilled"]):
            return f"the field 'distilled' of {name} is wrong"
        if "t5" in value and value["t5"]["model"].get("channels") != stage["text_width"]:
            return (
                f"the {name} reads text features of width {stage['text_width']}, but t5 makes width"
                f" {value['t5']['model'].get('channels')}"
            )
    return None


def _is_preview(vae: dict) -> bool:
    """Return whether a vae section's preview is a matrix [z + 1][3] of finite numbers."""
    rows, channels = vae["preview"], vae["model"].get("z_channels")
    return (
        isinstance(rows, list)
        and len(rows) == (len(rows) if channels is None else channels + 1)
        and len(rows) > 1
        and all(isinstance(row, list) and len(row) == 3 for row in rows)
        and all(
            isinstance(x, NUMBER) and not isinstance(x, bool) and math.isfinite(x)
            for row in rows
            for x in row
        )
    )


def _is_distilled(section: Any) -> bool:
    """Return whether an entry holds the steps and the range of w that a stage was distilled for.

    w may be None, for unknown.
    """
    if (
        not isinstance(section, dict)
        or not isinstance(section.get("steps"), int)
        or "w" not in section
    ):
        return False
    w = section["w"]
    return w is None or (
        isinstance(w, list) and len(w) == 2 and all(isinstance(x, (int, float)) for x in w)
    )
