"""Drawing the pictures of a set of prompts, by what `cv3jax sample --prompts` draws with."""

import json
import signal
from pathlib import Path
from typing import NamedTuple

from cv3jax.cascade.sampler_settings import SamplerSettings
from cv3jax.cascade.sizes import Size
from cv3jax.evaluation.pictures import PLAN
from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.sampling.expanding import Expanding
from cv3jax.sampling.resumable import Devices, Pictures, sample_many
from data_pipeline.io.errors import InputError, StoppedError, counted
from data_pipeline.io.files import replacing
from data_pipeline.io.shares import Share

PROMPTS, FOLDER = "prompts.jsonl", "pictures"


class Drawing(NamedTuple):
    """What draws: the checkpoint, the settings of its stages, and the devices."""

    checkpoint: Path
    base: SamplerSettings
    relay: SamplerSettings
    devices: Devices
    size: Size | None = None
    seed: int = 0
    expanding: Expanding | None = None


def draw(drawing: Drawing, prompts: PromptSet, num: int, out: Path) -> Path:
    """Draw `num` pictures of each prompt into a folder of `out`, and return the folder.

    Pictures that exist are kept, and so is the file of prompts beside those of others.

    Raises:
        InputError: the checkpoint does not fit, or `out` holds pictures drawn otherwise.
        StoppedError: a signal asked the process to end; the same command continues.
    """
    file, folder = write_prompts(out, prompts), out / FOLDER
    pictures = Pictures(
        file, num, drawing.seed, drawing.size, drawing.base, drawing.relay, drawing.expanding
    )
    figures = sample_many(drawing.checkpoint, pictures, folder, drawing.devices, Share(0, 1))
    if figures["left"]:
        raise left(figures["left"])
    return folder


def write_prompts(out: Path, prompts: PromptSet) -> Path:
    """Write the file of prompts that the pictures in `out` are drawn of, and return it.

    Raises InputError where `out` has pictures of other prompts.
    """
    file = out / PROMPTS
    rows = (
        {"prompt": row.text} | ({} if row.seed is None else {"seed": row.seed})
        for row in prompts.prompts
    )
    lines = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    if (out / FOLDER / PLAN).exists() and file.exists() and file.read_bytes() != lines:
        raise InputError(
            f"--out {out} holds pictures of other prompts; give those, or another --out"
        )
    out.mkdir(parents=True, exist_ok=True)
    with replacing(file) as temporary:
        temporary.write_bytes(lines)
    return file


def left(count: int, number: int = signal.SIGTERM) -> StoppedError:
    """Return the error that so many pictures are not drawn."""
    said = f"{counted(count, 'picture')} left to draw; run the same command to resume"
    return StoppedError(number, said)
