r"""Write metrics.json: what the original libraries say of the small checkpoints of the tests.

They take a torchvision that fits PyTorch, and old versions of others, so they have an environment
of their own:

    python3.11 -m venv peers && . peers/bin/activate
    pip install torch torchvision clean-fid torch-fidelity torchmetrics openai-clip scipy einops \
        ftfy timm braceexpand webdataset 'transformers<5' 'setuptools<80' 'pillow<13'
    pip install --no-deps hpsv2 image-reward fairscale
    PYTHONPATH=tests/helpers python tests/golden/make_metrics.py

Only numbers are kept. Nothing of these libraries is in this project.
"""

import importlib.metadata
import importlib.util
import json
import shutil
import sys
import tempfile
import types
from pathlib import Path

import metric_inception
import metric_weights as small
import numpy as np
import torch

OUT = Path(__file__).parent / "metrics.json"
_NAMES = """torch torchvision clean-fid torch-fidelity torchmetrics openai-clip hpsv2 image-reward
    transformers timm pillow numpy scipy"""
PACKAGES = _NAMES.split()


def bare(name: str) -> None:
    """Make a package importable without its own `__init__`, which imports what is not needed."""
    if name in sys.modules:
        return
    module = types.ModuleType(name)
    module.__path__ = list(importlib.util.find_spec(name).submodule_search_locations)
    sys.modules[name] = module


def reward_module(name: str) -> types.ModuleType:
    """Return a module of image-reward, whose imports from transformers have moved since."""
    import transformers.modeling_utils as old
    import transformers.pytorch_utils as new

    for each in ("apply_chunking_to_forward", "prune_linear_layer"):
        setattr(old, each, getattr(new, each))
    old.find_pruneable_heads_and_indices = new.find_pruneable_heads_and_indices
    bare("ImageReward")
    return importlib.import_module(f"ImageReward.{name}")


def state(arrays: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Return arrays as tensors."""
    return {name: torch.from_numpy(np.array(value)) for name, value in arrays.items()}


def aesthetic(words: int) -> list[float]:
    """Return the scores of the aesthetic predictor over OpenAI's CLIP."""
    import clip

    module = reward_module("models.AestheticScore")

    model = clip.model.build_model(
        state(small.open_clip(small.SEEDS["clip"], small.CLIP_L, words))
    ).float()
    scorer = module.AestheticScore.__new__(module.AestheticScore)
    torch.nn.Module.__init__(scorer)
    scorer.device, scorer.clip_model = "cpu", model
    scorer.preprocess = clip.clip._transform(224)
    scorer.mlp = module.MLP(small.CLIP_L["embedding"]).eval()
    scorer.mlp.load_state_dict(state(small.head(small.SEEDS["aes"], small.CLIP_L["embedding"])))
    return [scorer.score("", path) for path in saved()]


def hps(words: int, seed: int, bpe: Path) -> list[float]:
    """Return the scores of hpsv2's own open_clip."""
    bare("hpsv2")
    # which its wheel lacks, and its import opens
    place = Path(sys.modules["hpsv2"].__path__[0]) / "src/open_clip/bpe_simple_vocab_16e6.txt.gz"
    if not place.exists():
        shutil.copy(bpe, place)
    from hpsv2.src.open_clip import image_transform, tokenizer
    from hpsv2.src.open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    s = small.CLIP_H
    model = CLIP(
        s["embedding"],
        CLIPVisionCfg(layers=s["vision_layers"], width=160, head_width=80, patch_size=14),
        CLIPTextCfg(vocab_size=words, width=128, heads=2, layers=s["text_layers"]),
        output_dict=True,
    )
    model.load_state_dict(state(small.open_clip(seed, s, words)))
    tokenizer._tokenizer = tokenizer.SimpleTokenizer(str(bpe))
    transform = image_transform(224, is_train=False, resize_longest_max=True)
    model.eval()
    scores = []
    for picture, prompt in zip(small.pictures(), small.PROMPTS, strict=True):
        outputs = model(transform(picture)[None], tokenizer.tokenize([prompt]))
        scores.append(float(outputs["image_features"] @ outputs["text_features"].T))
    return scores


def image_reward(words: int, vocabulary: Path) -> list[float]:
    """Return the rewards of image-reward with a small BLIP."""
    import transformers

    module = reward_module("ImageReward")
    blip_pretrain = reward_module("models.BLIP.blip_pretrain")
    vit = reward_module("models.BLIP.vit")

    s = small.BLIP
    wide = s["vision_width"]

    def create_vit(*_):
        network = vit.VisionTransformer(
            img_size=224, patch_size=16, embed_dim=wide, depth=2, num_heads=s["vision_heads"]
        )
        return network, wide

    def init_tokenizer():
        tokenizer = transformers.BertTokenizer(str(vocabulary))
        tokenizer.add_special_tokens({"bos_token": "[DEC]"})
        tokenizer.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
        return tokenizer

    blip_pretrain.create_vit, blip_pretrain.init_tokenizer = create_vit, init_tokenizer
    config = {
        "hidden_size": s["text_width"],
        "intermediate_size": 4 * s["text_width"],
        "num_hidden_layers": 2,
        "num_attention_heads": s["text_heads"],
        "max_position_embeddings": s["positions"],
        "vocab_size": words,
        "add_cross_attention": True,
        "hidden_act": "gelu",
        "layer_norm_eps": 1e-12,
        "type_vocab_size": 2,
        "pad_token_id": 0,
    }
    file = vocabulary.parent / "med_config.json"
    file.write_text(json.dumps(config))
    mlp, module.MLP = module.MLP, lambda _: mlp(s["text_width"])
    # the projections of BLIP's losses are unused and have another width here
    tensors = small.image_reward(small.SEEDS["imagereward"], words)
    tensors = {n: v for n, v in tensors.items() if "_proj." not in n or "visual_encoder" in n}
    model = module.ImageReward(str(file)).eval()
    said = model.load_state_dict(state(tensors), strict=False)
    assert not said.unexpected_keys
    assert all("_proj." in name for name in said.missing_keys), said
    return [model.score(p, f) for p, f in zip(small.PROMPTS, saved(), strict=True)]


def clip_score(words: int, folder: Path) -> list[float]:
    """Return torchmetrics' CLIPScore of each picture, with OpenAI's CLIP in transformers."""
    from torchmetrics.functional.multimodal import clip_score as score
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

    s = small.CLIP_L
    text = {"hidden_size": 64, "intermediate_size": 256, "vocab_size": words}
    seen = {"hidden_size": 128, "intermediate_size": 512, "patch_size": 14}
    text |= {"num_hidden_layers": 2, "num_attention_heads": 1, "eos_token_id": words - 1}
    seen |= {"num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 224}
    config = CLIPConfig(text_config=text, vision_config=seen, projection_dim=s["embedding"])
    model = CLIPModel(config).eval()
    tensors = huggingface(small.open_clip(small.SEEDS["clip"], s, words))
    model.load_state_dict(state(tensors))
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"))
    processor = CLIPProcessor(CLIPImageProcessor(), tokenizer)
    made = []
    for picture, prompt in zip(small.pictures(), small.PROMPTS, strict=True):
        pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)
        made.append(float(score(pixels, prompt, lambda: (model, processor))))
    return made


def huggingface(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return OpenAI's tensors as transformers has them, by a map other than the project's."""
    made = {}
    for name, value in tensors.items():
        to = name.replace("visual.", "vision_model.") if "visual." in name else f"text_model.{name}"
        for ours, theirs in RENAMED:
            to = to.replace(ours, theirs)
        if "in_proj_" in to:
            for letter, third in zip("qkv", np.split(value, 3), strict=True):
                made[to.replace("in_proj_", f"{letter}_proj.")] = third
        else:
            made[to] = value
    for tower, name in (("vision_model.proj", "visual"), ("text_model.text_projection", "text")):
        made[f"{name}_projection.weight"] = made.pop(tower).T
    made["logit_scale"] = made.pop("text_model.logit_scale")
    return made


RENAMED = (
    ("transformer.resblocks", "encoder.layers"),
    ("attn.", "self_attn."),
    ("ln_1", "layer_norm1"),
    ("ln_2", "layer_norm2"),
    ("c_fc", "fc1"),
    ("c_proj", "fc2"),
    ("ln_pre", "pre_layrnorm"),
    ("ln_post", "post_layernorm"),
    ("ln_final", "final_layer_norm"),
    ("conv1", "embeddings.patch_embedding"),
    ("class_embedding", "embeddings.class_embedding"),
    ("token_embedding", "embeddings.token_embedding"),
    ("positional_embedding", "embeddings.position_embedding.weight"),
)


def saved(folder: Path | None = None, count: int = 4, seed: int = 0) -> list[str]:
    """Return the paths of the tests' pictures as PNG."""
    folder = folder or Path(tempfile.mkdtemp())
    folder.mkdir(exist_ok=True)
    for i, picture in enumerate(small.pictures(count, seed)):
        picture.save(folder / f"{i:03d}.png")
    return [str(folder / f"{i:03d}.png") for i in range(count)]


def sets(folder: Path) -> dict[str, dict[str, float]]:
    """Return clean-fid's and torch-fidelity's figures of two folders of pictures."""
    from cleanfid import fid
    from cleanfid.inception_torchscript import InceptionV3W
    from torch_fidelity import metric_fid, metric_kid, metric_prc

    metric_inception.write(folder / "inception-2015-12-05.pt")
    model = InceptionV3W(str(folder), download=False)
    saved(folder / "a", 12, 1)
    saved(folder / "b", 10, 2)
    options = {"mode": "clean", "num_workers": 0, "device": torch.device("cpu"), "verbose": False}
    a, b = (fid.get_folder_features(str(folder / x), model, **options) for x in "ab")
    clean = {
        "fid": float(fid.fid_from_feats(a, b)),
        "kid": float(fid.kernel_distance(a[:10], b, num_subsets=1)),
    }
    one, two = torch.from_numpy(a).double(), torch.from_numpy(b).double()
    statistics = [metric_fid.fid_features_to_statistics(each) for each in (one, two)]
    fidelity = {
        **metric_fid.fid_statistics_to_metric(*statistics, verbose=False),
        **metric_kid.kid_features_to_metric(one, two, kid_subset_size=10, verbose=False),
        **metric_prc.prc_features_to_metric(one, two, verbose=False),
    }
    return {"clean_fid": clean, "torch_fidelity": fidelity, "feature": float(a.sum())}


def main() -> None:
    """Write the file."""
    with tempfile.TemporaryDirectory() as place, torch.no_grad():
        folder = Path(place)
        words = small.write_bpe(folder)
        bert = small.write_bert(folder / "vocab.txt")
        made = {
            "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
            "aes": aesthetic(words),
            "hps": hps(words, small.SEEDS["hps"], folder / "bpe.txt.gz"),
            "hps21": hps(words, small.SEEDS["hps21"], folder / "bpe.txt.gz"),
            "imagereward": image_reward(bert, folder / "vocab.txt"),
            "clip": clip_score(words, folder),
            **sets(folder / "sets"),
        }
    OUT.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
