"""Pictures of many prompts: who makes which, what is there already, and what a directory of them
promises.

`plan.json` in the directory says what decides its pictures: the prompts' hash, seeds, settings, the
checkpoint's hash. A directory holds pictures of one plan. Batches, not pictures, are dealt to
processes, batch k to process k mod N, and a batch of which a picture is missing is drawn as it was:
so a picture has the same bytes whoever made it, and after whatever interruptions. `index.jsonl`
names all pictures with prompts and seeds; it appears when every one of them is there. Lines may be
appended to the file of prompts: theirs are made, and what is there stays as it is.
"""

import dataclasses
import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from cv3jax import recipes
from cv3jax.reports.pictures import save_png
from cv3jax.sampling.inputs import Prompt, beginnings
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.files import replacing

PLAN, INDEX = "plan.json", "index.jsonl"
FORMAT = 1
WRITERS = min(8, os.cpu_count() or 1)  # threads that write, and look at, pictures
_PNG_HEAD, _PNG_TAIL = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"\x00\x00\x00\x00IEND\xaeB`\x82"


class Job(NamedTuple):
    """A picture to make."""

    prompt: str
    seed: int
    file: str


@dataclasses.dataclass(frozen=True)
class Jobs:
    """All pictures of a plan, in their order: `num` of each prompt.

    Seeds count up from `seed`, or from a prompt's own.
    """

    prompts: list[Prompt]
    num: int
    seed: int

    def __len__(self) -> int:
        return len(self.prompts) * self.num

    def __getitem__(self, i: int) -> Job:
        number, copy = divmod(i, self.num)
        prompt = self.prompts[number]
        seed = self.seed + i if prompt.seed is None else prompt.seed + copy
        name = prompt.name or slug(prompt.text)
        return Job(prompt.text, seed, f"{i:0{_digits(len(self))}d}_{name}_{seed}.png")


def slug(text: str) -> str:
    """A prompt as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60] or "prompt"


def check_plan(out: Path, plan: dict, jobs: Jobs, source: Path) -> bool:
    """Raise InputError where `out` holds what another plan made. Writes nothing.

    Returns whether its pictures are of the first lines of `source`, the file of prompts: then those
    of the others are made beside them.
    """
    try:
        names = set(os.listdir(out))
        theirs = json.loads((out / PLAN).read_text()) if PLAN in names else None
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as e:
        raise (
            machine_error(e, out / PLAN)
            or InputError(
                f"--out {out}: {PLAN} is damaged ({first_line(e)}); give another directory"
            )
        ) from e
    if theirs is None:
        if strange := next((job.file for job in jobs if job.file in names), None):
            raise InputError(
                f"--out {out} has {strange} but no {PLAN} that says how it was made; give another"
                " directory"
            )
        return False
    theirs = theirs if isinstance(theirs, dict) else {}
    changed = recipes.differences(plan, theirs)
    if changed == ["prompts.lines", "prompts.sha256"] and _begins(theirs["prompts"], plan, source):
        _check_names(out, theirs["prompts"]["lines"] * jobs.num, len(jobs))
        return True
    if changed:
        raise InputError(
            f"--out {out} holds pictures made with other values of {', '.join(changed)}; run the"
            " command that made them, or give another directory"
        )
    return False


def _begins(theirs: dict, plan: dict, source: Path) -> bool:
    lines = theirs["lines"]
    fewer = type(lines) is int and 0 < lines < plan["prompts"]["lines"]
    return fewer and theirs["sha256"] in beginnings(source, lines)


def _check_names(out: Path, before: int, count: int) -> None:
    """Raise InputError where the names of so many pictures have more digits than those there."""
    if _digits(before) != _digits(count):
        raise InputError(
            f"--out {out} holds {before:,} pictures, whose names have {_digits(before)} digits;"
            f" {count:,} take {_digits(count)}, so give the new prompts a directory of their own"
        )


def _digits(count: int) -> int:
    return max(len(str(count - 1)), 5)


def write(place: Path, path: Path, text: Iterator[str]) -> None:
    """Write a text file by way of `place`: whole or not at all."""
    with (
        replacing(path, place / path.name, durable=True) as temporary,
        temporary.open("w") as file,
    ):
        file.writelines(text)


def is_whole(path: Path, side: int) -> bool:
    """Whether `path` is a PNG of that side from its beginning to its end.

    What is between is not read: it was written before the name.
    """
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < len(_PNG_HEAD) + 8 + len(_PNG_TAIL):
                return False
            head = file.read(len(_PNG_HEAD) + 8)
            file.seek(-len(_PNG_TAIL), os.SEEK_END)
            return head == _PNG_HEAD + 2 * side.to_bytes(4, "big") and file.read() == _PNG_TAIL
    except FileNotFoundError:
        return False


def missing(jobs: Jobs, rows: list[int], out: Path, side: int) -> list[int]:
    """Those of `rows` whose picture is not there, or not whole."""
    there = set(os.listdir(out)) if out.exists() else set()
    with ThreadPoolExecutor(WRITERS) as pool:
        whole = pool.map(
            lambda i: jobs[i].file in there and is_whole(out / jobs[i].file, side), rows
        )
        return [i for i, found in zip(rows, whole, strict=True) if not found]


def make(
    jobs: Jobs,
    rows: list[int],
    width: int,
    draw: Callable[[list[Job]], np.ndarray],
    out: Path,
    place: Path,
    stop: Callable[[], int | None],
) -> int:
    """Draw the pictures `rows`, batch after batch of `width`, and save them in `out`; `stop` is
    asked after each. Returns how many it made.

    `draw` makes a whole batch, uint8 [N, side, side, 3], always of the same pictures; those that
    are not in `rows` are not saved again. A batch is written while the next is drawn, so that no
    more than two are in memory.
    """
    wanted: dict[int, list[int]] = {}
    for i in rows:
        wanted.setdefault(i // width, []).append(i)
    made, writing = 0, []
    rate = {
        "unit": "picture",
        "desc": "sample",
        "file": sys.stderr,
        "mininterval": 1.0 if sys.stderr.isatty() else 15.0,
    }
    with (
        ThreadPoolExecutor(WRITERS) as pool,
        tqdm(total=len(rows), dynamic_ncols=True, **rate) as bar,
    ):

        def settle() -> None:
            nonlocal made
            for one in writing:
                one.result()
            made += len(writing)
            bar.update(len(writing))

        for batch, some in sorted(wanted.items()):
            images = draw(
                [jobs[i] for i in range(batch * width, min((batch + 1) * width, len(jobs)))]
            )
            settle()
            writing = [
                pool.submit(save_png, out / jobs[i].file, images[i - batch * width], place)
                for i in some
            ]
            if stop():
                break
        settle()
    return made


def index(jobs: Jobs, out: Path, place: Path, side: int) -> int:
    """Write index.jsonl where every picture of every part is there. Returns how many are not."""
    lacking = len(missing(jobs, list(range(len(jobs))), out, side))
    if not lacking:
        write(
            place,
            out / INDEX,
            (
                json.dumps({"file": job.file, "prompt": job.prompt, "seed": job.seed}) + "\n"
                for job in jobs
            ),
        )
    return lacking
