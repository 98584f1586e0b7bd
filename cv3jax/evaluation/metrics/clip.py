"""CLIP by transformers, from files in the layout of Hugging Face or of open_clip.

Its sizes are those of the metric that takes it, so that no configuration is read from a file.
"""

import dataclasses
import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cv3jax.evaluation.metrics.networks import Tensors, build, read_tensors
from cv3jax.evaluation.metrics.open_clip_names import renamed
from cv3jax.evaluation.metrics.weight_files import Need
from data_pipeline.io.bounded_json import Limits, load_json, read_bytes
from data_pipeline.io.errors import InputError, first_line

_VOCABULARY = Limits(bytes=2**24, values=10**6)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """The sizes of a CLIP; widths in numbers, patch and image in pixels."""

    name: str
    embedding: int
    vision_width: int
    vision_layers: int
    vision_heads: int
    text_width: int
    text_layers: int
    text_heads: int
    activation: str
    patch: int = 14
    image: int = 224
    context: int = 77
    vocabulary: int = 49408


VIT_L = Sizes("ViT-L/14", 768, 1024, 24, 16, 768, 12, 12, "quick_gelu")
VIT_H = Sizes("ViT-H/14", 1024, 1280, 32, 16, 1024, 24, 16, "gelu")

_REPOSITORY = "openai/clip-vit-large-patch14"
FOLDER = "clip-vit-large-patch14"
MODEL = Need(
    f"{FOLDER}/model.safetensors",
    f"{_REPOSITORY}: model.safetensors",
    "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
)
TOKENIZER = (
    Need(f"{FOLDER}/vocab.json", f"{_REPOSITORY}: vocab.json"),
    Need(
        f"{FOLDER}/merges.txt",
        f"{_REPOSITORY}: merges.txt",
        "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
    ),
)


def load_huggingface(path: Path, sizes: Sizes) -> Any:
    """Return a CLIPModel of transformers from its own layout.

    Raises:
        InputError: the file is damaged, or holds another model than one of `sizes`.
    """
    tensors = read_tensors(path, ignored=(".position_ids",))
    _check(path, tensors, sizes, "vision_model.embeddings.patch_embedding.weight", None)
    return _built(path, tensors, sizes)


def load_open_clip(path: Path, sizes: Sizes) -> Any:
    """Return a CLIPModel of transformers from the layout of open_clip, which HPS has too.

    Raises InputError as `load_huggingface`.
    """
    tensors = read_tensors(path)
    _check(path, tensors, sizes, "visual.conv1.weight", "visual.proj")
    return _built(path, renamed(tensors), sizes)


def image_features(model: Any, pixels: Any) -> Any:
    """Return the embeddings [n, embedding] of the output of pixels.py, of length 1."""
    pooled = model.vision_model(pixel_values=pixels.to(model.device)).pooler_output
    return _unit(model.visual_projection(pooled))


def text_features(model: Any, tokens: Any) -> Any:
    """Return the embeddings [n, embedding] of tokens int64 [n, context], of length 1."""
    pooled = model.text_model(input_ids=tokens.to(model.device)).pooler_output
    return _unit(model.text_projection(pooled))


def load_tokenizer(vocabulary: Path, merges: Path, sizes: Sizes) -> Any:
    """Return CLIP's tokenizer. Raises InputError where the files are not of one of `sizes`."""
    from transformers import CLIPTokenizer

    try:
        names = load_json(vocabulary, _VOCABULARY)
        lines = read_bytes(merges, _VOCABULARY.bytes).decode().splitlines()
        pairs = [tuple(line.split(" ")) for line in lines if line and not line.startswith("#v")]
        if not isinstance(names, dict) or sorted(names.values()) != list(range(sizes.vocabulary)):
            raise ValueError(f"it does not number {sizes.vocabulary:,} tokens from 0")
        return CLIPTokenizer(vocab=names, merges=pairs)
    # the tokenizer raises Exception itself
    except Exception as e:
        raise InputError(
            f"{vocabulary.parent} has no tokenizer of {sizes.name}: {first_line(e)}; get vocab.json"
            f" and merges.txt of {_REPOSITORY}"
        ) from e


def tokens(tokenizer: Any, prompts: Sequence[str], sizes: Sizes, *, repair: bool = False) -> Any:
    """Return int64 [n, context]; longer prompts are cut.

    repair: mend broken Unicode and HTML's entities first, as OpenAI's and open_clip's tokenizers
    do and that of transformers does not.
    """
    texts = list(prompts)
    if repair:
        import ftfy

        texts = [html.unescape(html.unescape(ftfy.fix_text(each))).strip() for each in texts]
    return tokenizer(
        texts,
        padding="max_length",
        truncation=True,
        max_length=sizes.context,
        return_tensors="pt",
    ).input_ids


def _unit(features: Any) -> Any:
    return features / features.norm(dim=-1, keepdim=True)


def _built(path: Path, tensors: Tensors, sizes: Sizes) -> Any:
    from transformers import CLIPConfig, CLIPModel

    end = sizes.vocabulary - 1
    common = {"projection_dim": sizes.embedding, "hidden_act": sizes.activation}
    text = {
        "hidden_size": sizes.text_width,
        "intermediate_size": 4 * sizes.text_width,
        "num_hidden_layers": sizes.text_layers,
        "num_attention_heads": sizes.text_heads,
        "max_position_embeddings": sizes.context,
        "vocab_size": sizes.vocabulary,
        "bos_token_id": end - 1,
        "eos_token_id": end,
        "pad_token_id": end,
    }
    vision = {
        "hidden_size": sizes.vision_width,
        "intermediate_size": 4 * sizes.vision_width,
        "num_hidden_layers": sizes.vision_layers,
        "num_attention_heads": sizes.vision_heads,
        "image_size": sizes.image,
        "patch_size": sizes.patch,
    }
    config = CLIPConfig(
        text_config=common | text,
        vision_config=common | vision,
        projection_dim=sizes.embedding,
    )
    return build(lambda: CLIPModel(config), tensors, f"{path}, for CLIP {sizes.name},")


def _check(path: Path, tensors: Tensors, sizes: Sizes, patch: str, projection: str | None) -> None:
    """Raise InputError where a file holds no CLIP, or one of other widths; both are named."""
    if patch not in tensors or tensors[patch].ndim != 4:
        raise InputError(
            f"{path} holds no CLIP in this layout: {patch} is missing; {sizes.name} is needed"
        )
    width, _, side, _ = tensors[patch].shape
    last = tensors.get(projection or "visual_projection.weight")
    embedding = None if last is None else last.shape[-1 if projection else 0]
    if (width, side, embedding) != (sizes.vision_width, sizes.patch, sizes.embedding):
        raise InputError(
            f"{path} holds a CLIP with patches of {side} pixels, width {width} and embeddings of"
            f" {embedding}, but the metric takes {sizes.name} with {sizes.patch},"
            f" {sizes.vision_width} and {sizes.embedding}"
        )
