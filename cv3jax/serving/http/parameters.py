"""The parameters of requests: those of OpenAI's images API, ours beside them, and the refused ones.

A parameter that this server does not have is an error, never ignored.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from cv3jax.cascade import COLOUR_FIXES
from cv3jax.sampling.inputs import LAST_SEED, MAX_PROMPT
from cv3jax.serving.http import fields
from cv3jax.web.errors import ApiError, refused, wrong
from data_pipeline.io.arguments import nearest

FORMATS = ("png", "jpeg", "webp")
MAX_N, MAX_PARTIAL = 10, 3
_STEPS, _WEIGHT, _SHARE = (
    fields.whole(1, 1000),
    fields.number(0.0, 100.0),
    fields.number(0.0, 1.0),
)


class Parameter(NamedTuple):
    """How a parameter is read, and its value where it is not given or null."""

    read: fields.Reader
    default: Any = None


_BOTH = {
    "prompt": Parameter(fields.text(MAX_PROMPT)),
    "model": Parameter(fields.text(200)),
    "n": Parameter(fields.whole(1, MAX_N), 1),
    "size": Parameter(fields.size),
    "response_format": Parameter(fields.choice("b64_json", "url"), "b64_json"),
    "output_format": Parameter(fields.choice(*FORMATS), "png"),
    "output_compression": Parameter(fields.whole(0, 100)),
    "stream": Parameter(fields.boolean, False),
    "partial_images": Parameter(fields.whole(0, MAX_PARTIAL), 0),
    "user": Parameter(fields.text(256)),
    "safety_identifier": Parameter(fields.text(256)),
    # these ask for what every picture is; other values are in _ELSE
    "quality": Parameter(fields.choice("auto"), "auto"),
    "background": Parameter(fields.choice("auto", "opaque"), "auto"),
    "moderation": Parameter(fields.choice("auto"), "auto"),
    "seed": Parameter(fields.whole(0, LAST_SEED)),
    "loras": Parameter(fields.loras, ()),
}
GENERATION = {
    **_BOTH,
    "steps": Parameter(fields.pair(_STEPS), (None, None)),
    "guidance": Parameter(fields.pair(_WEIGHT), (None, None)),
    "eta": Parameter(fields.pair(_SHARE), (None, None)),
    "expand": Parameter(fields.boolean, False),
}
EDIT = {
    **_BOTH,
    # one number, which stands at both places
    "steps": Parameter(lambda value: (_STEPS(value),) * 2, (None, None)),
    "guidance": Parameter(lambda value: (_WEIGHT(value),) * 2, (None, None)),
    "eta": Parameter(lambda value: (_SHARE(value),) * 2, (None, None)),
    "strength": Parameter(fields.number(1e-3, 1.0), 1.0),
    "colour_fix": Parameter(fields.choice(*COLOUR_FIXES), "wavelet"),
}
_ELSE = {
    "quality": 'the checkpoint has one quality, so give "auto"; more steps may draw better',
    "background": 'pictures have no transparency, so give "auto" or "opaque"',
    "moderation": 'the server\'s --safety decides for all, so give "auto"',
}
REFUSED = {
    "negative_prompt": (
        "the weights were trained with zeros in place of an empty prompt, so that a negative prompt"
        " has no trained effect; say in the prompt what is to be seen"
    ),
    "style": "the checkpoint has no styles; describe the style in the prompt",
    "mask": "the relay draws the whole picture anew from its coarse content, so a mask cannot hold"
    " a part of it back; leave the mask out",
    "input_fidelity": "give strength, which says how much of the picture is drawn anew",
    "num_inference_steps": "it is called steps",
    "guidance_scale": "it is called guidance",
    "cfg_scale": "it is called guidance",
    "num_images": "it is called n",
}


def read(given: Mapping[str, Any], known: Mapping[str, Parameter]) -> dict[str, Any]:
    """Return the values of all `known` parameters.

    Raises ApiError for a parameter that is not known or refused, a wrong value, or no prompt.
    """
    for name in given:
        if name in known or (name in REFUSED and given[name] is None):
            continue
        if name in REFUSED:
            raise refused(name, f"{name}: {REFUSED[name]}")
        shown = str(name)[:60]
        close = nearest(shown, known)
        right = f"did you mean {close}?" if close else f"known are {', '.join(sorted(known))}"
        raise ApiError(
            400, f"unknown parameter {shown!r}; {right}", code="unknown_parameter", param=shown
        )
    values = {}
    for name, parameter in known.items():
        value = given.get(name)
        try:
            values[name] = parameter.default if value is None else parameter.read(value)
        except ValueError as e:
            right = _ELSE.get(name, str(e))
            raise wrong(name, f"{name} {_shown(value)}: {right}") from e
    _check(values)
    return values


def _check(values: dict[str, Any]) -> None:
    prompt = values["prompt"]
    if prompt is None or not prompt.strip():
        raise ApiError(
            400,
            f"prompt: give a text of 1..{MAX_PROMPT} characters that are not all blank",
            code="missing_required_parameter",
            param="prompt",
        )
    if values["output_compression"] not in (None, 100) and values["output_format"] == "png":
        raise wrong(
            "output_compression",
            f"output_compression {values['output_compression']}: a png loses nothing; give it with"
            " jpeg or webp",
        )
    streams = values.get("stream", False)
    if values.get("partial_images") and not streams:
        raise wrong("partial_images", "partial_images goes with stream: true")
    if streams and values["response_format"] == "url":
        raise wrong("response_format", "response_format url: a stream sends b64_json")
    if values["seed"] is not None and values["seed"] + values["n"] - 1 > LAST_SEED:
        raise wrong(
            "seed",
            f"seed {values['seed']}: {values['n']} pictures count up from it, past {LAST_SEED}",
        )


def _shown(value: Any) -> str:
    """Return the beginning of a value for a message."""
    shown = repr(value[:40] if isinstance(value, str | list) else value)
    return shown[:60]
