"""A directory `--weights` with small checkpoints of all metrics, and metrics opened from it."""

from pathlib import Path

import metric_weights as small
import numpy as np
import safetensors.numpy
import torch

from cv3jax.evaluation.metrics import (
    aesthetic,
    clip,
    clip_score,
    hps,
    image_reward,
    open_clip_names,
)
from cv3jax.evaluation.metrics.base import PictureMetric
from cv3jax.evaluation.metrics.weight_files import find_all


def clip_l(words: int) -> clip.Sizes:
    """Return the sizes of the small ViT-L/14."""
    return clip.Sizes("ViT-L/14", activation="quick_gelu", vocabulary=words, **small.CLIP_L)


def clip_h(words: int) -> clip.Sizes:
    """Return the sizes of the small ViT-H/14."""
    return clip.Sizes("ViT-H/14", activation="gelu", vocabulary=words, **small.CLIP_H)


def write(folder: Path) -> Path:
    """Write the files of aes, clip, hps, hps21 and imagereward; return the directory."""
    words = small.write_bpe(folder / clip.FOLDER)
    bert = small.write_bert(folder / image_reward.VOCABULARY.path)
    write_clip(folder / clip.MODEL.path, small.open_clip(small.SEEDS["clip"], small.CLIP_L, words))
    save(folder / aesthetic.HEAD.path, small.head(small.SEEDS["aes"], small.CLIP_L["embedding"]))
    for name in hps.VERSIONS:
        tensors = small.open_clip(small.SEEDS[name], small.CLIP_H, words)
        halves = {key: value.astype(np.float16) for key, value in tensors.items()}  # as released
        save(folder / hps.VERSIONS[name][1].path, halves, "state_dict")
    tensors = small.image_reward(small.SEEDS["imagereward"], bert)
    save(folder / image_reward.MODEL.path, tensors)
    return folder


def write_clip(path: Path, tensors: dict[str, np.ndarray]) -> None:
    """Write a CLIP in the layout of transformers, as safetensors."""
    path.parent.mkdir(parents=True, exist_ok=True)
    named = open_clip_names.renamed({n: torch.from_numpy(np.array(v)) for n, v in tensors.items()})
    arrays = {name: np.array(value.numpy(), order="C") for name, value in named.items()}
    positions = np.arange(77)[None]  # as the released file has, and nothing reads
    safetensors.numpy.save_file(
        arrays | {"text_model.embeddings.position_ids": positions}, str(path)
    )


def save(path: Path, tensors: dict[str, np.ndarray], under: str | None = None) -> None:
    """Write a file of PyTorch."""
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    torch.save({under: state} if under else state, path)


def opened(name: str, folder: Path) -> PictureMetric:
    """Return a metric of pictures with the small sizes."""
    words = len(small.letters()) * 2 + len(small.merges()) + 2
    if name == "aes":
        return aesthetic.open_aesthetic(find_all(name, folder, aesthetic.NEEDS), clip_l(words))
    if name == "clip":
        return clip_score.open_clip_score(find_all(name, folder, clip_score.NEEDS), clip_l(words))
    if name == "imagereward":
        bert = len((folder / image_reward.VOCABULARY.path).read_text().split("\n")) - 1 + 2
        sizes = image_reward.Sizes(vocabulary=bert, **small.BLIP)
        return image_reward.open_image_reward(find_all(name, folder, image_reward.NEEDS), sizes)
    return hps.open_hps(name, find_all(name, folder, hps.needs(name)), clip_h(words))
