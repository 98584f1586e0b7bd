"""`imagereward`: ImageReward v1.0, BLIP's encoder of text and picture with a linear head.

Source: the package `image-reward`. The networks are those of transformers. The prompt is cut at 35
tokens.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL.Image import Image

from cv3jax.evaluation.metrics import pixels
from cv3jax.evaluation.metrics.base import PictureMetric, batches, versions
from cv3jax.evaluation.metrics.networks import Tensors, build, head, libraries, read_tensors
from cv3jax.evaluation.metrics.weight_files import Found, Need, digests
from data_pipeline.io.bounded_json import read_bytes
from data_pipeline.io.errors import InputError, first_line

MODEL = Need("imagereward/ImageReward.pt", "THUDM/ImageReward: ImageReward.pt")
VOCABULARY = Need("imagereward/vocab.txt", "google-bert/bert-base-uncased: vocab.txt")
NEEDS = (MODEL, VOCABULARY)
_MEAN, _STD = 0.16717362830052426, 1.0333394966054072  # of the rewards in training
_TOKENS = 35
_ADDED = 2  # BLIP's [DEC] and [ENC], which no prompt has
_WIDTHS = (1024, 128, 64, 16, 1)
_TRAINED = ("blip.vision_proj.", "blip.text_proj.")  # of BLIP's losses, unused here


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of BLIP; widths in numbers, patch and image in pixels."""

    vision_width: int = 1024
    vision_layers: int = 24
    vision_heads: int = 16
    text_width: int = 768
    text_layers: int = 12
    text_heads: int = 12
    positions: int = 512
    vocabulary: int = 30522 + _ADDED
    patch: int = 16
    image: int = 224


BLIP_LARGE = Sizes()


def open_image_reward(found: dict[str, Found], sizes: Sizes = BLIP_LARGE) -> PictureMetric:
    """Return the metric `imagereward`. Raises InputError where a file holds something else."""
    torch = libraries("imagereward")
    tokenizer = _tokenizer(found[VOCABULARY.path].path, sizes)
    path = found[MODEL.path].path
    tensors = read_tensors(path, ignored=(".position_ids",))
    _check(path, tensors, sizes)
    vision, text, linear = _networks(path, tensors, sizes)

    def score(images: Sequence[Image], prompts: Sequence[str]) -> dict[str, np.ndarray]:
        with torch.inference_mode():
            parts = [one(images[rows], prompts[rows]) for rows in batches(len(images))]
        return {"imagereward": np.concatenate(parts) if parts else np.empty(0)}

    def one(images: Sequence[Image], prompts: Sequence[str]) -> np.ndarray:
        said = tokenizer(
            list(prompts),
            padding="max_length",
            truncation=True,
            max_length=_TOKENS,
            return_tensors="pt",
        ).to(vision.device)
        shown = pixels.short_side(images, sizes.image, "round").to(vision.device)
        seen = vision(pixel_values=shown).last_hidden_state
        hidden = text(
            input_ids=said.input_ids,
            attention_mask=said.attention_mask,
            encoder_hidden_states=seen,
            encoder_attention_mask=torch.ones_like(seen[..., 0], dtype=torch.long),
            is_decoder=False,
        ).last_hidden_state
        rewards = linear["layers"](hidden[:, 0])[:, 0].double().cpu().numpy()
        return (rewards - _MEAN) / _STD

    protocol: dict[str, Any] = {
        "metric": "imagereward",
        "weights": digests(found),
        "network": "BLIP with ViT-L/16",
        "pixels": pixels.SHORT_SIDE | {"side": sizes.image, "crop": "centre, half pixels to even"},
        "prompt": {"prefix": "", "tokens": _TOKENS},
        "precision": "float32",
        "versions": versions("torch", "transformers", "pillow"),
    }
    return PictureMetric("imagereward", "higher", protocol, score)


def _tokenizer(path: Path, sizes: Sizes) -> Any:
    """Return BERT's tokenizer. Raises InputError where the file has another number of words."""
    from transformers import BertTokenizer

    try:
        words = read_bytes(path, 2**22).decode().splitlines()
        names = {word: number for number, word in enumerate(words)}
        if len(names) != sizes.vocabulary - _ADDED or len(words) != len(names):
            raise ValueError(
                f"it has {len(names):,} different words in {len(words):,} lines, instead of"
                f" {sizes.vocabulary - _ADDED:,}"
            )
        return BertTokenizer(vocab=names)
    # the tokenizer raises Exception itself
    except Exception as e:
        raise InputError(
            f"{path} is not the vocabulary of BERT: {first_line(e)}; get it from"
            f" {VOCABULARY.source}"
        ) from e


def _check(path: Path, tensors: Tensors, sizes: Sizes) -> None:
    """Raise InputError where the widths are others; both are named."""
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    seen = shapes.get("blip.visual_encoder.cls_token")
    said = shapes.get("blip.text_encoder.embeddings.word_embeddings.weight")
    if seen is None or said is None:
        raise InputError(
            f"{path} is not ImageReward: it has no blip.visual_encoder and blip.text_encoder; get"
            f" it from {MODEL.source}"
        )
    if (seen[-1], said[-1]) != (sizes.vision_width, sizes.text_width):
        raise InputError(
            f"{path} holds a BLIP of width {seen[-1]} for pictures and {said[-1]} for text, but"
            f" ImageReward has {sizes.vision_width} and {sizes.text_width}"
        )


def _networks(path: Path, tensors: Tensors, sizes: Sizes) -> tuple[Any, Any, Any]:
    """Return BLIP's networks of pictures and of text, and the head."""
    from transformers import BlipTextConfig, BlipVisionConfig
    from transformers.models.blip.modeling_blip import BlipVisionModel
    from transformers.models.blip.modeling_blip_text import BlipTextModel

    vision = BlipVisionConfig(
        hidden_size=sizes.vision_width,
        intermediate_size=4 * sizes.vision_width,
        num_hidden_layers=sizes.vision_layers,
        num_attention_heads=sizes.vision_heads,
        image_size=sizes.image,
        patch_size=sizes.patch,
        layer_norm_eps=1e-6,
    )
    text = BlipTextConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.text_width,
        encoder_hidden_size=sizes.vision_width,
        intermediate_size=4 * sizes.text_width,
        num_hidden_layers=sizes.text_layers,
        num_attention_heads=sizes.text_heads,
        max_position_embeddings=sizes.positions,
        bos_token_id=sizes.vocabulary - _ADDED,
        eos_token_id=None,
        sep_token_id=None,
    )
    parts: dict[str, Tensors] = {"visual_encoder": {}, "text_encoder": {}, "mlp": {}, "": {}}
    for name, value in tensors.items():
        if not name.startswith(_TRAINED):
            stem, _, rest = name.removeprefix("blip.").partition(".")
            parts[stem if stem in parts else ""][rest if stem in parts else name] = value
    if strange := sorted(parts[""]):
        raise InputError(f"{path} is not ImageReward: {strange[0]} is unexpected")
    pictures = {_vision_name(name): value for name, value in parts["visual_encoder"].items()}
    widths = (sizes.text_width, *_WIDTHS)
    return (
        build(lambda: BlipVisionModel(vision), pictures, f"{path}, for BLIP's pictures,"),
        build(
            lambda: BlipTextModel(text, add_pooling_layer=False),
            parts["text_encoder"],
            f"{path}, for BLIP's text,",
        ),
        build(lambda: head(widths), parts["mlp"], f"{path}, for ImageReward's head,"),
    )


def _vision_name(name: str) -> str:
    """Return the name in transformers of a tensor of BLIP's own network of pictures."""
    if not name.startswith("blocks."):
        return _VISION.get(name, name)
    _, number, rest = name.split(".", 2)
    stem, _, kind = rest.rpartition(".")
    return f"encoder.layers.{number}.{_BLOCK.get(stem, stem)}.{kind}"


_VISION = {
    "cls_token": "embeddings.class_embedding",
    "pos_embed": "embeddings.position_embedding",
    "patch_embed.proj.weight": "embeddings.patch_embedding.weight",
    "patch_embed.proj.bias": "embeddings.patch_embedding.bias",
    "norm.weight": "post_layernorm.weight",
    "norm.bias": "post_layernorm.bias",
}
_BLOCK = {
    "norm1": "layer_norm1",
    "norm2": "layer_norm2",
    "attn.qkv": "self_attn.qkv",
    "attn.proj": "self_attn.projection",
}
