"""Write a cascade into a directory of its own with a model card, and upload it to the Hub."""

import shutil
import tempfile
from pathlib import Path

from cv3jax import __version__
from cv3jax.adapters.provenance import MERGED
from cv3jax.api.environment import value_errors
from cv3jax.api.loading import HUB
from cv3jax.checkpoints import cascades
from cv3jax.checkpoints.description import CascadeDescription, StageDescription
from data_pipeline.io.errors import InputError, first_line
from data_pipeline.io.extras import advice
from data_pipeline.io.staging import appearing

CARD = "README.md"


def save(source: Path, directory: Path) -> Path:
    """Write the cascade at `source`, with a model card, into a new `directory`; return its path.

    Raises InputError where the directory exists, or the source is a run without a cascade.
    """
    found, description = cascades.read_cascade(source)
    if not (found / cascades.CASCADE).is_file():
        raise InputError(
            f"{source} is a step of a run and no cascade; let the run finish, or set"
            " --config.train.export_every"
        )
    with appearing(directory, "directory") as partial:
        for part in description.parts:
            cascades.carry_part(cascades.place_of(found, part)[0], partial / part)
        if (found / MERGED).is_file():
            shutil.copy(found / MERGED, partial / MERGED)
        (partial / CARD).write_text(card(description, directory.name))
        cascades.write_cascade(partial, description)
    return directory


def card(description: CascadeDescription, name: str) -> str:
    """Return the model card of a cascade: Markdown with the Hub's fields at the top."""
    rows = "\n".join(_row(part, stage) for part, stage in sorted(description.stages.items()))
    return f"""---
library_name: cv3jax
pipeline_tag: text-to-image
tags: [text-to-image, relay-diffusion, cogview3, jax]
---

# {name}

A text-to-image cascade in the format of cv3jax {__version__} (CogView3, arXiv 2403.05121).

```python
import cv3jax

pipe = cv3jax.Cascade.load("{name}")  # or "owner/{name}" on the Hub
pipe("a small green star", seed=0)
```

| stage | picture | steps | guidance | prediction | distilled |
|---|---|---|---|---|---|
{rows}

Say here what it was trained on, what it is for, and under which licence it may be used.
"""


def _row(name: str, stage: StageDescription) -> str:
    side = stage.image_size
    distilled = "no" if stage.distilled is None else f"to {stage.distilled.steps}"
    return (
        f"| {name} | {side}×{side} | {stage.steps} | {stage.guidance:g} | {stage.prediction}"
        f" | {distilled} |"
    )


def push(source: Path, repository: str, *, private: bool, token: str | None) -> str:
    """Upload the cascade at `source` to "owner/name" of the Hub. Returns the address.

    Raises ValueError where huggingface_hub is not installed, or the Hub refuses.
    """
    if not isinstance(repository, str) or not HUB.fullmatch(repository):
        raise ValueError(f"repository {str(repository)[:80]!r}: give owner/name")
    try:
        from huggingface_hub import HfApi
    except ModuleNotFoundError as e:
        raise ValueError(f"push_to_hub takes huggingface_hub: run {advice('hub')}") from e
    hub = HfApi(token=token)
    with tempfile.TemporaryDirectory() as folder:
        with value_errors():
            written = save(source, Path(folder, repository.partition("/")[2]))
        try:
            hub.create_repo(repository, private=private, exist_ok=True)
            hub.upload_folder(repo_id=repository, folder_path=written)
        # where there is no network, the errors are those of the HTTP library that the hub uses
        except Exception as e:
            raise ValueError(f"{repository}: the Hugging Face Hub refuses: {first_line(e)}") from e
    return f"https://huggingface.co/{repository}"
