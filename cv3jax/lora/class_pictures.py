"""Class pictures: what the cascade draws of a class before it is fine-tuned.

DreamBooth (arXiv 2208.12242, section 3.3) trains on them beside the given pictures, so that the
class keeps its variety: its loss is that of the pictures plus `prior_weight` times that of the
class pictures. They are drawn once, and stay in WORKDIR/class_pictures.
"""

import contextlib
import hashlib
import json
import signal
import sys
from pathlib import Path

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.checkpoints import cascades
from cv3jax.lora.picture_settings import PictureSettings
from cv3jax.lora.pictures import Prior
from cv3jax.sampling.jobs import slug
from cv3jax.sampling.resumable import Devices, Pictures, sample_many
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import StoppedError, counted
from data_pipeline.io.files import replacing
from data_pipeline.io.progress import say
from data_pipeline.io.shares import Share

FOLDER, DRAWN = "class_pictures", "drawn"  # in the workdir; in a prompt's folder


def draw_class_pictures(
    settings: StageSettings, chosen: PictureSettings, workdir: Path
) -> Prior | None:
    """Return the class pictures of config.pictures.class_prompt, after drawing those that lack.

    The checkpoint is that of config.init_from, or else of config.cascade. The pictures have the
    size that the stage draws. Returns None without a class prompt.

    Raises:
        InputError: the checkpoint cannot draw them, or drew them otherwise before.
        StoppedError: a signal came; the same command continues.
    """
    prompt = chosen.class_prompt.strip()
    if not prompt:
        return None
    name = f"{slug(prompt)[:40]}-{hashlib.sha256(prompt.encode()).hexdigest()[:8]}"
    folder = workdir / FOLDER / name
    prompts, side = folder / "prompts.jsonl", settings.data.whole_side
    folder.mkdir(parents=True, exist_ok=True)
    count = max(chosen.class_pictures, _lines(prompts))  # earlier ones stay in the plan
    line = json.dumps({"prompt": prompt, "name": "class"}) + "\n"
    with replacing(prompts) as temporary:
        temporary.write_text(line * count)
    pictures = Pictures(
        prompts, 1, settings.seed, Size(side, side), SamplerSettings(), SamplerSettings()
    )
    devices = Devices(settings.batch.per_device, None, settings.attention)
    source = cascades.find_cascade(settings.init_from or settings.cascade)
    say(f"cv3jax: {counted(count, 'class picture')} of {prompt!r}, drawn by {source}")
    with contextlib.redirect_stdout(sys.stderr):  # the figures of drawing are not the command's
        figures = sample_many(source, pictures, folder / DRAWN, devices, Share(0, 1))
    if left := figures["left"]:
        said = f"{counted(left, 'class picture')} left to draw; run the same command to resume"
        raise StoppedError(signal.SIGTERM, said)
    return Prior(folder / DRAWN, prompt, chosen.class_pictures)


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.is_file() else 0
