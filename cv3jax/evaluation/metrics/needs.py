"""The files that the metrics take below `--weights`: their places and their sources.

This module imports nothing heavy, so that a wrong flag is answered at once.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Need:
    """A file that a metric takes.

    Attributes:
        path: below `--weights`.
        source: where it comes from, such as `hub-owner/name: file`.
        sha256: what a library's source states of it, or None.
    """

    path: str
    source: str
    sha256: str | None = None


_CLIP = "openai/clip-vit-large-patch14"
CLIP_FOLDER = "clip-vit-large-patch14"
CLIP = Need(
    f"{CLIP_FOLDER}/model.safetensors",
    f"{_CLIP}: model.safetensors",
    "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb",
)
CLIP_TOKENIZER = (
    Need(f"{CLIP_FOLDER}/vocab.json", f"{_CLIP}: vocab.json"),
    Need(
        f"{CLIP_FOLDER}/merges.txt",
        f"{_CLIP}: merges.txt",
        "9fd691f7c8039210e0fced15865466c65820d09b63988b0174bfe25de299051a",
    ),
)
AESTHETIC = Need(
    "aesthetic/sac+logos+ava1-l14-linearMSE.pth",
    "github.com/christophschuhmann/improved-aesthetic-predictor: sac+logos+ava1-l14-linearMSE.pth",
    "21dd590f3ccdc646f0d53120778b296013b096a035a2718c9cb0d511bff0f1e0",
)
HPS = Need("hps/HPS_v2_compressed.pt", "xswu/HPSv2: HPS_v2_compressed.pt")
HPS_21 = Need("hps/HPS_v2.1_compressed.pt", "xswu/HPSv2: HPS_v2.1_compressed.pt")
IMAGE_REWARD = Need("imagereward/ImageReward.pt", "THUDM/ImageReward: ImageReward.pt")
BERT = Need("imagereward/vocab.txt", "google-bert/bert-base-uncased: vocab.txt")
INCEPTION = Need(
    "inception/inception-2015-12-05.pt",
    "nvlabs-fi-cdn.nvidia.com: stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt",
    "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4",
)
