"""Small checkpoints of the metrics' networks, in the exact layout of the released ones.

Each tensor is a function of a seed, its name and its shape. So the tests and
tests/golden/make_metrics.py, which runs the original libraries, have the same numbers. Nothing is
imported but NumPy here; torch is where files are written.
"""

import gzip
import json
from pathlib import Path

import numpy as np
from golden_weights import normal
from PIL import Image

SEEDS = {"aes": 1, "clip": 5, "hps": 2, "hps21": 4, "imagereward": 3, "fid": 5}
# widths are multiples of what a head has in the original: 64, or 80 in pictures of ViT-H
CLIP_L = {
    "embedding": 48,
    "vision_width": 128,
    "vision_layers": 2,
    "vision_heads": 2,
    "text_width": 64,
    "text_layers": 2,
    "text_heads": 1,
}
CLIP_H = {
    "embedding": 40,
    "vision_width": 160,
    "vision_layers": 2,
    "vision_heads": 2,
    "text_width": 128,
    "text_layers": 2,
    "text_heads": 2,
}
BLIP = {
    "vision_width": 48,
    "vision_layers": 2,
    "vision_heads": 3,
    "text_width": 32,
    "text_layers": 2,
    "text_heads": 2,
    "positions": 64,
}
HEAD = (1024, 128, 64, 16, 1)
_TEXT = """a an the of red blue cat cats dog photo small large and on under says moon in at painting
    lighthouse stormy sea it don t s 3 , . ! " ' &"""
WORDS = tuple(_TEXT.split())
PROMPTS = (
    'A photo of a small red cat, "on the moon"',
    "The LIGHTHOUSE in a stormy sea:   it's a painting &amp; don't say caf\u00e9!",
    "dog",
    "a large blue dog and a small cat under the moon, " * 12,  # more than any context
)
SIZES = ((224, 224), (301, 200), (97, 150), (640, 227))  # width, height


def tensor(seed: int, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return float32 numbers that half precision holds too; scales of norms are near 1."""
    z = normal(f"metrics|{seed}|{name}|{shape}", int(np.prod(shape))).reshape(shape)
    if len(shape) == 1 and name.endswith("weight"):
        z = 1 + 0.15 * z
    elif len(shape) == 1:
        z = 0.2 * z
    else:
        z = z / np.sqrt(int(np.prod(shape[1:]))) if len(shape) != 3 else 0.3 * z
    return z.astype(np.float16).astype(np.float32)


def pictures(count: int = 4, seed: int = 0, sizes: tuple = SIZES) -> list[Image.Image]:
    """Return RGB pictures with smooth areas, edges and noise."""
    made = []
    for i in range(count):
        width, height = sizes[i % len(sizes)]
        coarse = normal(f"picture|{seed}|{i}", 5 * 7 * 3).reshape(5, 7, 3)
        coarse = np.clip(128 + 60 * coarse, 0, 255).astype(np.uint8)
        smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)
        fine = normal(f"noise|{seed}|{i}", height * width * 3).reshape(height, width, 3)
        pixels = np.asarray(smooth, np.float64) + 12 * fine
        pixels[height // 3 : height // 2, width // 4 : width // 2] = (250, 5, 40 * (i % 6))
        made.append(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    return made


def head(seed: int, width: int, prefix: str = "layers.") -> dict[str, np.ndarray]:
    """Return the linear head of the aesthetic predictor; ImageReward's has the prefix mlp."""
    made, before = {}, width
    for number, after in zip((0, 2, 4, 6, 7), HEAD, strict=True):
        made[f"{prefix}{number}.weight"] = tensor(seed, f"head{number}.w", (after, before))
        made[f"{prefix}{number}.bias"] = tensor(seed, f"head{number}.bias", (after,))
        before = after
    return made


def open_clip(seed: int, sizes: dict, vocabulary: int, patch: int = 14) -> dict[str, np.ndarray]:
    """Return a CLIP in the layout that OpenAI's and open_clip's checkpoints share."""
    wide, narrow, end = sizes["vision_width"], sizes["text_width"], sizes["embedding"]
    shapes = {
        "positional_embedding": (77, narrow),
        "text_projection": (narrow, end),
        "logit_scale": (),
        "visual.class_embedding": (wide,),
        "visual.positional_embedding": ((224 // patch) ** 2 + 1, wide),
        "visual.proj": (wide, end),
        "visual.conv1.weight": (wide, 3, patch, patch),
        "token_embedding.weight": (vocabulary, narrow),
        **_norm("visual.ln_pre", wide),
        **_norm("visual.ln_post", wide),
        **_norm("ln_final", narrow),
    }
    towers = (("visual.transformer", wide, sizes["vision_layers"]),)
    for stem, width, layers in (*towers, ("transformer", narrow, sizes["text_layers"])):
        for i in range(layers):
            block = f"{stem}.resblocks.{i}"
            shapes |= _norm(f"{block}.ln_1", width) | _norm(f"{block}.ln_2", width)
            shapes |= {
                f"{block}.attn.in_proj_weight": (3 * width, width),
                f"{block}.attn.in_proj_bias": (3 * width,),
                **_linear(f"{block}.attn.out_proj", width, width),
                **_linear(f"{block}.mlp.c_fc", 4 * width, width),
                **_linear(f"{block}.mlp.c_proj", width, 4 * width),
            }
    return {name: tensor(seed, name, shape) for name, shape in shapes.items()}


def image_reward(seed: int, vocabulary: int) -> dict[str, np.ndarray]:
    """Return ImageReward's checkpoint with a small BLIP."""
    wide, narrow, words = BLIP["vision_width"], BLIP["text_width"], vocabulary
    seen, said = "blip.visual_encoder", "blip.text_encoder"
    shapes = {
        f"{seen}.cls_token": (1, 1, wide),
        f"{seen}.pos_embed": (1, 197, wide),
        f"{seen}.patch_embed.proj.weight": (wide, 3, 16, 16),
        f"{seen}.patch_embed.proj.bias": (wide,),
        **_norm(f"{seen}.norm", wide),
        f"{said}.embeddings.word_embeddings.weight": (words, narrow),
        f"{said}.embeddings.position_embeddings.weight": (BLIP["positions"], narrow),
        **_norm(f"{said}.embeddings.LayerNorm", narrow),
        **_linear("blip.vision_proj", 16, wide),
        **_linear("blip.text_proj", 16, narrow),
    }
    for i in range(BLIP["vision_layers"]):
        block = f"{seen}.blocks.{i}"
        shapes |= _norm(f"{block}.norm1", wide) | _norm(f"{block}.norm2", wide)
        shapes |= _linear(f"{block}.attn.qkv", 3 * wide, wide)
        shapes |= _linear(f"{block}.attn.proj", wide, wide)
        shapes |= _linear(f"{block}.mlp.fc1", 4 * wide, wide)
        shapes |= _linear(f"{block}.mlp.fc2", wide, 4 * wide)
    for i in range(BLIP["text_layers"]):
        layer = f"{said}.encoder.layer.{i}"
        for kind, inner in (("attention", narrow), ("crossattention", wide)):
            for part in ("query", "key", "value"):
                before = narrow if part == "query" else inner
                shapes |= _linear(f"{layer}.{kind}.self.{part}", narrow, before)
            shapes |= _linear(f"{layer}.{kind}.output.dense", narrow, narrow)
            shapes |= _norm(f"{layer}.{kind}.output.LayerNorm", narrow)
        shapes |= _linear(f"{layer}.intermediate.dense", 4 * narrow, narrow)
        shapes |= _linear(f"{layer}.output.dense", narrow, 4 * narrow)
        shapes |= _norm(f"{layer}.output.LayerNorm", narrow)
    positions = {f"{said}.embeddings.position_ids": np.arange(BLIP["positions"])[None]}
    made = {name: tensor(seed, name, shape) for name, shape in shapes.items()}
    return made | positions | head(seed, narrow, "mlp.layers.")


def _norm(name: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (width,), f"{name}.bias": (width,)}


def _linear(name: str, after: int, before: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": (after, before), f"{name}.bias": (after,)}


def merges() -> list[tuple[str, str]]:
    """Return merges of byte pairs that make each of WORDS one token, in the order of WORDS."""
    found: dict[tuple[str, str], None] = {}
    for word in WORDS:
        parts = [*word[:-1], f"{word[-1]}</w>"]
        while len(parts) > 1:
            found.setdefault((parts[0], parts[1]))
            parts = [parts[0] + parts[1], *parts[2:]]
    return list(found)


def letters() -> list[str]:
    """Return the letters that stand for the 256 bytes in GPT-2's and CLIP's vocabularies."""
    shown = [*range(33, 127), *range(161, 173), *range(174, 256)]
    other = {b: 256 + i for i, b in enumerate(b for b in range(256) if b not in shown)}
    # in the order of CLIP's vocabulary: those that are shown first
    return [chr(b) for b in shown] + [chr(other[b]) for b in range(256) if b in other]


def write_bpe(folder: Path) -> int:
    """Write vocab.json, merges.txt and bpe.txt.gz, as open_clip has it; return the words."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs, base = merges(), letters()
    tokens = [*base, *(f"{each}</w>" for each in base), *map("".join, pairs)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(tokens)}))
    lines = "\n".join(["#version: 0.2", *map(" ".join, pairs)])
    (folder / "merges.txt").write_text(lines)
    (folder / "bpe.txt.gz").write_bytes(gzip.compress(lines.encode(), mtime=0))
    return len(tokens)


def write_bert(path: Path) -> int:
    """Write a vocab.txt of BERT; return the words with BLIP's two."""
    path.parent.mkdir(parents=True, exist_ok=True)
    alphabet = [chr(c) for c in range(97, 123)]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, *alphabet]
    words = list(dict.fromkeys([*words, *(f"##{each}" for each in alphabet), ";", ":"]))
    path.write_text("\n".join(words) + "\n")
    return len(words) + 2
