"""The tensors of open_clip's CLIP under the names that transformers gives them."""

from collections.abc import Mapping
from typing import Any

_BLOCK = {
    "ln_1": "layer_norm1",
    "ln_2": "layer_norm2",
    "attn.out_proj": "self_attn.out_proj",
    "mlp.c_fc": "mlp.fc1",
    "mlp.c_proj": "mlp.fc2",
}
_NAMES = {
    "proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
    "logit_scale": "logit_scale",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "ln_final.weight": "text_model.final_layer_norm.weight",
    "ln_final.bias": "text_model.final_layer_norm.bias",
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.ln_pre.weight": "vision_model.pre_layrnorm.weight",
    "visual.ln_pre.bias": "vision_model.pre_layrnorm.bias",
    "visual.ln_post.weight": "vision_model.post_layernorm.weight",
    "visual.ln_post.bias": "vision_model.post_layernorm.bias",
}


def renamed(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors of open_clip's CLIP under the names of transformers, in its layout.

    A tensor of an unknown name keeps it.
    """
    made: dict[str, Any] = {}
    for name, value in tensors.items():
        tower = "vision_model" if name.startswith("visual.") else "text_model"
        rest = name.removeprefix("visual.")
        if rest in ("proj", "text_projection"):
            made[_NAMES[rest]] = value.T
        elif ".resblocks." in rest:
            _, _, block = rest.partition(".resblocks.")
            number, _, part = block.partition(".")
            made |= {
                f"{tower}.encoder.layers.{number}.{ours}": each for ours, each in _part(part, value)
            }
        else:
            key = f"visual.{rest}" if name.startswith("visual.") else rest
            made[_NAMES.get(key, name)] = value
    return made


def _part(name: str, value: Any) -> list[tuple[str, Any]]:
    """Return the names and values in transformers of a tensor of one of open_clip's blocks."""
    stem, _, kind = name.rpartition(".")
    if stem == "attn" and kind.startswith("in_proj_"):
        if value.shape[0] % 3:
            return [(name, value)]  # which is then said to be unexpected
        thirds = value.chunk(3)
        return [
            (f"self_attn.{which}_proj.{kind.removeprefix('in_proj_')}", each)
            for which, each in zip("qkv", thirds, strict=True)
        ]
    return [(f"{_BLOCK.get(stem, stem)}.{kind}", value)]
