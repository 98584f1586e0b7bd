"""Read the YAML files beside the released weights, for what no shape shows.

Their known errors are ignored.
"""

from pathlib import Path
from typing import Any, NamedTuple

from data_pipeline.io.bounded_json import ParseError
from data_pipeline.io.bounded_yaml import load_yaml
from data_pipeline.io.errors import InputError

_PREDICTIONS = {"EpsScaling": "eps", "VScaling": "v"}


class Official(NamedTuple):
    """The content of a configuration; None where it does not say."""

    path: Path
    kind: str  # base or relay
    unet: dict[str, Any]  # fields of the UNet, to be compared with the recognised ones
    head_channels: int | None
    prediction: str | None
    image_size: int | None
    steps: int | None
    start: int | None  # relay: T_r
    guidance: float | None  # or the w of a distilled model
    scale: float | None  # of latents
    length: int | None  # of the text, in tokens
    flaws: list[str]  # errors of the file that were ignored, in words


def read_official(path: Path) -> Official:
    """Read a configuration.

    Raises InputError where there is none, it is not YAML, or it is another kind of file.
    """
    try:
        content = load_yaml(path)
    except OSError as e:
        raise InputError(f"--config {path}: {e.strerror}") from e
    except ParseError as e:
        raise InputError(f"--config {path} is not YAML: {e}") from e
    network, sampler = (
        _at(content, "model", "network_config", "params"),
        _at(content, "model", "sampler_config"),
    )
    if not isinstance(network, dict) or not isinstance(sampler, dict):
        raise InputError(
            f"--config {path} is not CogView3's: it has no model.network_config.params or no"
            " model.sampler_config"
        )

    def number(kind: type, *keys: str) -> Any:
        value = _at(content, *keys)
        if value is None:
            return None
        if (
            isinstance(value, bool)
            or not isinstance(value, (int, float))
            or not 0 < value < 10**6
            or kind(value) != value
        ):
            raise InputError(
                f"--config {path}: {'.'.join(keys)} is {_shown(value)}, which is not possible; give"
                " a positive number below 1000000"
            )
        return kind(value)

    target = sampler.get("target")
    kind = "relay" if isinstance(target, str) and "Relay" in target else "base"
    settings = ("model", "sampler_config", "params")
    steps, partial = (
        number(int, *settings, "num_steps"),
        number(int, *settings, "partial_num_steps"),
    )
    if kind == "relay" and (not steps or not partial or partial > steps):
        raise InputError(
            f"--config {path}: a relay's sampler needs partial_num_steps in 1..num_steps, but has"
            f" {partial} of {steps}"
        )
    guider = number(float, *settings, "guider_config", "params", "scale")
    scaling = _at(content, "model", "denoiser_config", "params", "scaling_config", "target")
    scaling = scaling.rpartition(".")[2] if isinstance(scaling, str) else scaling
    if scaling is not None and scaling not in tuple(_PREDICTIONS):
        raise InputError(
            f"--config {path}: denoiser scaling is {_shown(scaling)}, but must be one of"
            f" {', '.join(_PREDICTIONS)}"
        )
    models = _at(content, "model", "conditioner_config", "params", "emb_models")
    lengths = (
        [_at(model, "params", "max_length") for model in models] if isinstance(models, list) else []
    )
    length = next(
        (length for length in lengths if type(length) is int and 2 <= length <= 4096), None
    )
    w_dim = number(int, "model", "network_config", "params", "cfg_cond_embed_dim")
    return Official(
        path,
        kind,
        _unet(network, w_dim),
        number(int, "model", "network_config", "params", "num_head_channels"),
        _PREDICTIONS.get(scaling),
        number(int, "args", "sampling_image_size"),
        partial if kind == "relay" else steps,
        round(1000 * partial / steps) if kind == "relay" else None,
        number(float, *settings, "cfg_cond_scale") or guider,
        number(float, "model", "scale_factor"),
        length,
        _flaws(content, kind),
    )


def disagreement(official: Official, fields: dict[str, Any]) -> str | None:
    """Return the first size in which weights and configuration differ, in words, or None."""
    for name, said in official.unet.items():
        if said is not None and fields[name] != said:
            return f"{official.path.name} says {name} = {said}, but the weights have {fields[name]}"
    return None


def _unet(network: dict, w_dim: int | None) -> dict[str, Any]:
    mult, depth = network.get("channel_mult"), network.get("transformer_depth")
    attention = network.get("attention_resolutions")
    known = {
        "channels": network.get("model_channels"),
        "res_blocks": network.get("num_res_blocks"),
        "w_dim": w_dim or 0,
        "channel_mult": tuple(mult) if isinstance(mult, list) else None,
    }
    if isinstance(depth, list) and isinstance(attention, list):
        # the file gives a depth for stages without attention too
        known["depth"] = tuple(
            blocks if 2**stage in attention else 0 for stage, blocks in enumerate(depth)
        )
    return known


def _flaws(content: dict, kind: str) -> list[str]:
    flaws = []
    channels = _at(content, "model", "first_stage_config", "params", "ddconfig", "in_channels")
    if channels not in (None, 3):
        flaws.append(f"ddconfig.in_channels is {_shown(channels)}, but 3 is used")
    if kind == "relay" and not _at(content, "args", "relay_model"):
        flaws.append(
            "args.relay_model is not True, but the sampler is a relay's, so the model is taken for"
            " a relay"
        )
    return flaws


def _shown(value: Any) -> str:
    """Return a value of the file for a message: a short one itself, else its type.

    Nested aliases would take forever to write.
    """
    short = isinstance(value, str) or (isinstance(value, (int, float)) and abs(value) < 10**9)
    return (
        repr(value[:40] if isinstance(value, str) else value)
        if short
        else f"a value of type {type(value).__name__}"
    )


def _at(content: Any, *keys: str) -> Any:
    for key in keys:
        content = content.get(key) if isinstance(content, dict) else None
    return content
