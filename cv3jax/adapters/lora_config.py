"""PEFT's LoraConfig, as JSON: in adapter_config.json, and in the header of diffusers' files.

It has the alphas, which no tensor says. Of its patterns, which PEFT takes for regular expressions,
only names are read: an expression from a file may take for ever.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

from cv3jax.adapters.adapter import MOST_RANK, Adapter, listed
from data_pipeline.io.bounded_json import Limits
from data_pipeline.io.errors import InputError

LIMITS = Limits(bytes=2**22)  # names and alphas of thousands of layers
_NAME = re.compile(r"\^?((?:[A-Za-z0-9_]|\\?\.)+)\$?")
# how some initialisations change the base's weights, which the adapter then belongs to
_CHANGING = ("pissa", "olora", "corda", "loftq", "lora_ga")
# fields with which a layer is more than LoRA or DoRA
_REFUSED = (
    *("bias", "lora_bias", "modules_to_save", "fan_in_fan_out", "layer_replication"),
    *(
        "use_qalora",
        "use_bdlora",
        "alora_invocation_tokens",
        "arrow_config",
        "trainable_token_indices",
    ),
)


class LoraConfig:
    """What a LoraConfig says of layers; `where` is its file, for messages."""

    def __init__(self, value: Any, where: str):
        """Check the fields that count. Raises InputError."""
        self.where = where
        if not isinstance(value, dict):
            raise InputError(f"{where} is no object")
        kind = value.get("peft_type", "LORA")
        if kind not in ("LORA", None):
            raise InputError(f"{where}: peft_type is {str(kind)[:40]!r}, and only LORA is read")
        for name in _REFUSED:
            if value.get(name) not in (None, False, "none", [], {}):
                raise InputError(f"{where}: {name} is {str(value[name])[:40]}, which is not read")
        begun = value.get("init_lora_weights", True)
        if isinstance(begun, str) and begun.lower().startswith(_CHANGING):
            raise InputError(
                f"{where}: init_lora_weights is {begun[:40]!r}, which changed the base's weights;"
                " save the adapter with PEFT's path_initial_model_for_weight_conversion"
            )
        self.rank = self._number(value, "r", 8)
        self.alpha = self._number(value, "lora_alpha", 8)
        self.ranks = self._patterns(value, "rank_pattern")
        self.alphas = self._patterns(value, "alpha_pattern")
        self.rslora = self._switch(value, "use_rslora")
        self.dora = self._switch(value, "use_dora")

    def _number(self, value: dict, name: str, default: float) -> float:
        found = value.get(name, default)
        if type(found) not in (int, float) or not math.isfinite(found):
            raise InputError(f"{self.where}: {name} is {str(found)[:40]}, not a number")
        return found

    def _switch(self, value: dict, name: str) -> bool:
        found = value.get(name) or False
        if found not in (True, False):
            raise InputError(f"{self.where}: {name} is {str(found)[:40]}, not true or false")
        return bool(found)

    def _patterns(self, value: dict, name: str) -> dict[str, float]:
        """Return {pattern: number} of a field."""
        found = value.get(name) or {}
        if not isinstance(found, dict):
            raise InputError(f"{self.where}: {name} is no object")
        for pattern, number in found.items():
            if not _NAME.fullmatch(pattern):
                raise InputError(
                    f"{self.where}: {name} has the expression {pattern[:60]!r}; only names of"
                    " layers are read"
                )
            if type(number) not in (int, float) or not math.isfinite(number):
                raise InputError(f"{self.where}: {name} of {pattern[:60]} is no number")
        return found

    def alpha_of(self, module: str, rank: int) -> float:
        """Return a layer's alpha. Raises InputError where its rank is another than `rank`."""
        said = _matching(self.ranks, module, self.rank)
        if said != rank:
            raise InputError(f"{self.where} gives {module} the rank {said}, but its tensors {rank}")
        return float(_matching(self.alphas, module, self.alpha))

    def check_dora(self, adapter: Adapter) -> None:
        """Raise InputError where the layers have DoRA's magnitudes and the config not, or so."""
        without = [name for name, layer in adapter.layers.items() if layer.magnitude is None]
        if self.dora and without:
            raise InputError(
                f"{self.where} says use_dora, but there is no lora_magnitude_vector of"
                f" {listed(without, 'layer')}"
            )
        if not self.dora and len(without) < len(adapter.layers):
            raise InputError(f"{self.where} has no use_dora, but layers have lora_magnitude_vector")


def _matching(patterns: Mapping[str, float], module: str, default: float) -> float:
    """Return the number of the first pattern that PEFT finds to match a module."""
    for pattern, number in patterns.items():
        name = _NAME.fullmatch(pattern)[1].replace("\\.", ".")
        if module == name or (not pattern.startswith("^") and module.endswith(f".{name}")):
            return number
    return default


def config_of(adapter: Adapter, where: str) -> dict[str, Any]:
    """Return the LoraConfig of an adapter with diffusers' names.

    Raises InputError where some layers have DoRA and others not.
    """
    layers = adapter.layers
    with_dora = [name for name, layer in layers.items() if layer.magnitude is not None]
    if with_dora and len(with_dora) < len(layers):
        raise InputError(
            f"{where}: {len(with_dora)} of {len(layers)} layers have DoRA scales; diffusers and"
            " PEFT hold them for all layers or none; give --to kohya or --to native"
        )
    ranks = {name: layer.rank for name, layer in layers.items()}
    alphas = {name: _whole(layer.alpha) for name, layer in layers.items()}
    rank, alpha = (Counter(each.values()).most_common(1)[0][0] for each in (ranks, alphas))
    assert 0 < rank <= MOST_RANK
    return {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        # a name without ^ would also match the ends of longer names
        "rank_pattern": {f"^{name}": one for name, one in ranks.items() if one != rank},
        "alpha_pattern": {f"^{name}": one for name, one in alphas.items() if one != alpha},
        "target_modules": sorted(layers),
        "use_rslora": adapter.rslora,
        "use_dora": bool(with_dora),
        "bias": "none",
        "lora_dropout": 0.0,
        "init_lora_weights": True,
        "fan_in_fan_out": False,
        "inference_mode": True,
    }


def _whole(value: float) -> float:
    return int(value) if value.is_integer() and abs(value) < 2**53 else value
