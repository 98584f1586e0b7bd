"""Drawing the pictures of a set of prompts with another model, as `cv3jax sample --prompts` does.

The folder has the same files: plan.json, index.jsonl, and PNGs with a record of what made them. A
run that was stopped continues, and its pictures are then those of one that was not.
"""

import functools
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax import __version__
from cv3jax.distributed import preemption
from cv3jax.distributed.independent import holding
from cv3jax.evaluation.baselines import pipelines
from cv3jax.evaluation.baselines.folders import fingerprint
from cv3jax.evaluation.baselines.models import Model
from cv3jax.evaluation.drawing import FOLDER, left, write_prompts
from cv3jax.evaluation.prompt_sets import PromptSet
from cv3jax.evaluation.timing import Timed, timed
from cv3jax.sampling.inputs import LAST_SEED, read_prompts
from cv3jax.sampling.jobs import (
    FORMAT,
    INDEX,
    PLAN,
    Job,
    Jobs,
    Target,
    check_plan,
    index,
    make,
    missing,
    write,
)
from cv3jax.sampling.png_record import BASELINE, KEY
from data_pipeline.io import progress
from data_pipeline.io.errors import InputError, counted
from data_pipeline.io.shares import Share

ENDS = "the command ends after this batch; run it again to resume"


class Drawing(NamedTuple):
    """What draws: the model, pictures at a time, and the seed of the first one."""

    model: Model
    batch: int
    seed: int = 0


class Artist:
    """A model that is hashed at once, and loaded when it is first needed."""

    def __init__(self, model: Model):
        """Hash the model's folders and choose the machine."""
        self.model, self.machine = model, pipelines.machine_of(model)
        self.described = pipelines.described(model, self.machine, fingerprint(model.folders))

    @functools.cached_property
    def drawer(self) -> pipelines.Drawer:
        """Return the model, loaded."""
        return pipelines.load(self.model, self.machine, self.described)


def draw(drawing: Drawing, artist: Artist, prompts: PromptSet, num: int, out: Path) -> Path:
    """Draw `num` pictures of each prompt into a folder of `out`, and return the folder.

    Pictures that exist are kept.

    Raises:
        InputError: the model cannot be loaded, or `out` holds pictures drawn otherwise.
        StoppedError: a signal asked the process to end; the same command continues.
    """
    file, folder = write_prompts(out, prompts), out / FOLDER
    rows, found = read_prompts(file, num)
    jobs, size = Jobs(rows, num, drawing.seed), drawing.model.size
    if drawing.seed + len(jobs) - 1 > LAST_SEED:
        raise InputError(
            f"--seed {drawing.seed}: the last of {counted(len(jobs), 'picture')} would have a seed"
            f" above {LAST_SEED}; give a smaller one"
        )
    plan = {
        "format": FORMAT,
        "prompts": {"lines": len(rows), "sha256": found},
        "num": num,
        "seed": drawing.seed,
        "size": list(size),
        "model": artist.described,
    }
    check_plan(folder, plan, jobs, file)
    with holding(folder, Share(0, 1)) as place:
        if check_plan(folder, plan, jobs, file):
            (folder / INDEX).unlink(missing_ok=True)  # it lists only the earlier pictures
        todo = missing(jobs, list(range(len(jobs))), folder, size)
        if todo:
            drawer = artist.drawer
            write(place, folder / PLAN, iter([json.dumps(plan, indent=2, sort_keys=True) + "\n"]))
            with (
                preemption.noticing(ends=ENDS) as noticed,
                progress.bar(len(todo), "draw", "picture") as bar,
            ):
                made = make(
                    jobs,
                    todo,
                    drawing.batch,
                    lambda some: drawer.draw([j.text for j in some], [j.seed for j in some]),
                    Target(folder, place, _record_of(drawing.model, drawer.about)),
                    noticed,
                    bar,
                )
                stop = noticed()
            if made < len(todo):
                raise left(len(todo) - made, stop or signal.SIGTERM)
        index(jobs, folder, place, size)
    return folder


def time_of(drawing: Drawing, artist: Artist, prompts: PromptSet, out: Path) -> dict[str, Any]:
    """Return the time of a batch, which is measured once and kept in `out`."""
    said = {**artist.described, "size": list(drawing.model.size), "device": artist.machine.name}
    return timed(out, Timed(said, prompts, drawing.seed), lambda: _timer(artist))


def _timer(artist: Artist) -> tuple[Callable, dict[str, Any]]:
    return artist.drawer.draw, {"versions": artist.drawer.about["versions"]}


def _record_of(model: Model, about: dict[str, Any]) -> Callable[[Job], dict[str, str]]:
    """Return what makes the texts of a job's PNG."""

    def record(job: Job) -> dict[str, str]:
        value = {
            "format": 1,
            "program": f"cv3jax {__version__}",
            "prompt": job.prompt,
            "seed": job.seed,
            "size": list(model.size),
            BASELINE: about,
        }
        return {KEY: json.dumps(value, ensure_ascii=False, sort_keys=True)}

    return record
