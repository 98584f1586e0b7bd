"""Pictures of many prompts: which process makes which, which exist, and what a directory promises.

`plan.json` in the directory has what decides its pictures: the hash of the prompts, seeds,
settings, and the hash of the checkpoint. A directory holds pictures of one plan. Batch k belongs to
process k mod N. A batch with a missing picture is drawn again as a whole, so a picture has the same
bytes whichever process made it, after any interruption. `index.jsonl` lists all pictures with
prompts and seeds; it appears when all of them exist. Lines may be appended to the file of prompts:
their pictures are added, and the others stay as they are.
"""

import dataclasses
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from cv3jax import recipes
from cv3jax.cascade.sizes import Size
from cv3jax.reports.pictures import save_png
from cv3jax.sampling.inputs import LAST_SEED, MAX_LINES, Prompt, beginnings
from data_pipeline.expansion.result import Expansion
from data_pipeline.io import kept_fields
from data_pipeline.io.bounded_json import load_json
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.files import replacing
from data_pipeline.io.objects.places import public

PLAN, INDEX = "plan.json", "index.jsonl"
FORMAT = 1
_PROMPTS = {
    "lines": kept_fields.whole("Prompts in the file.", 1, MAX_LINES),
    "sha256": kept_fields.text("Their hash.", 64),
}
# what a plan may say of fields that are used as they stand; the others are only compared
_KEPT = {
    "format": kept_fields.whole("The plan's form.", 1, 1000),
    "seed": kept_fields.whole("Seed of the first picture.", 0, LAST_SEED),
    "prompts": kept_fields.section("The file of prompts.", _PROMPTS),
    "tile": kept_fields.whole("Side of the tiles in pixels; 0: none.", 0, 16_384),
}
WRITERS = min(8, os.cpu_count() or 1)  # threads that write and check pictures
_PNG_HEAD, _PNG_TAIL = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", b"\x00\x00\x00\x00IEND\xaeB`\x82"


class Job(NamedTuple):
    """A picture to make of `prompt`, or of its expansion where it has one."""

    prompt: str
    seed: int
    file: str
    expansion: Expansion | None = None

    @property
    def text(self) -> str:
        """Return the text that is drawn."""
        return self.prompt if self.expansion is None else self.expansion.text

    def to_json(self) -> dict[str, Any]:
        """Return what an index says of the picture."""
        said: dict[str, Any] = {"file": self.file, "prompt": self.prompt, "seed": self.seed}
        return said if self.expansion is None else {**said, "expansion": self.expansion.to_json()}


@dataclasses.dataclass(frozen=True)
class Jobs:
    """All pictures of a plan in order: `num` of each prompt.

    Seeds count up from `seed`, or from the prompt's own seed. `expansions`: those that are known,
    by the number of their prompt.
    """

    prompts: list[Prompt]
    num: int
    seed: int
    expansions: Mapping[int, Expansion] = dataclasses.field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of pictures."""
        return len(self.prompts) * self.num

    def __getitem__(self, i: int) -> Job:
        """Return the job of picture i."""
        number, copy = divmod(i, self.num)
        prompt = self.prompts[number]
        seed = self.seed + i if prompt.seed is None else prompt.seed + copy
        name = prompt.name or slug(prompt.text)
        file = f"{i:0{_digits(len(self))}d}_{name}_{seed}.png"
        return Job(prompt.text, seed, file, self.expansions.get(number))

    def expanded(self, expansions: Mapping[int, Expansion]) -> "Jobs":
        """Return these jobs with more expansions, by the number of their prompt."""
        return dataclasses.replace(self, expansions={**self.expansions, **expansions})


def slug(text: str) -> str:
    """Return a prompt as part of a file's name."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_")[:60] or "prompt"


def check_plan(out: Path, plan: dict, jobs: Jobs, source: Path) -> bool:
    """Raise InputError where `out` holds what another plan made. Writes nothing.

    Returns whether its pictures are those of the first lines of `source`, the file of prompts. Then
    the pictures of the other lines are added.
    """
    try:
        names = set(os.listdir(out))
        theirs = load_json(out / PLAN, nan=True) if PLAN in names else None
    except FileNotFoundError:
        return False
    except (OSError, ValueError) as e:
        raise (
            machine_error(e, out / PLAN)
            or InputError(
                f"--out {public(out)}: {PLAN} is damaged ({first_line(e)}); give another directory"
            )
        ) from e
    if theirs is None:
        if strange := next((job.file for job in jobs if job.file in names), None):
            raise InputError(
                f"--out {public(out)} has {strange} but no {PLAN} that says how it was made; give"
                " another directory"
            )
        return False
    known = {name: _KEPT[name] for name in _KEPT if isinstance(theirs, dict) and name in theirs}
    if said := kept_fields.wrong(theirs, known):
        raise InputError(f"--out {public(out)}: {PLAN} is damaged ({said}); give another directory")
    changed = recipes.differences(plan, theirs)
    if changed == ["prompts.lines", "prompts.sha256"] and _begins(theirs["prompts"], plan, source):
        each = len(jobs) // plan["prompts"]["lines"]
        _check_names(out, theirs["prompts"]["lines"] * each, len(jobs))
        return True
    if changed:
        names = {"prompts" if "prompts." in name else name for name in changed}
        shown = sorted(name if name.isprintable() else repr(name) for name in names)
        raise InputError(
            f"--out {public(out)} holds pictures made with other values of {', '.join(shown)}; give"
            " those values, or another directory"
        )
    return False


def planned_tile(out: Path) -> int:
    """Return the tile in which the pictures of `out` are drawn; 0 without a plan, or as a whole."""
    try:
        plan = load_json(out / PLAN, nan=True)
    except (OSError, ValueError):  # `check_plan` says what is wrong
        return 0
    return 0 if kept_fields.wrong(plan, {"tile": _KEPT["tile"]}) else plan["tile"]


def _begins(theirs: dict, plan: dict, source: Path) -> bool:
    lines, found = theirs.get("lines"), theirs.get("sha256")
    fewer = type(lines) is int and 0 < lines < plan["prompts"]["lines"]
    return fewer and isinstance(found, str) and found in beginnings(source, lines)


def _check_names(out: Path, before: int, count: int) -> None:
    """Raise InputError where so many pictures would need names with more digits than there are."""
    if _digits(before) != _digits(count):
        raise InputError(
            f"--out {public(out)} holds {before:,} pictures with {_digits(before)} digits in their"
            f" names, but {count:,} pictures need {_digits(count)}; draw the new prompts into"
            " another directory"
        )


def _digits(count: int) -> int:
    return max(len(str(count - 1)), 5)


def write(place: Path, path: Path, text: Iterator[str]) -> None:
    """Write a text file in one step, by way of `place`."""
    with (
        replacing(path, place / path.name, durable=True) as temporary,
        temporary.open("w") as file,
    ):
        file.writelines(text)


def is_whole(path: Path, size: Size) -> bool:
    """Return whether `path` is a PNG of that size, by its first and last bytes.

    The bytes between are not read, because they were written before the file got its name.
    """
    sides = b"".join(side.to_bytes(4, "big") for side in (size.width, size.height))
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < len(_PNG_HEAD) + 8 + len(_PNG_TAIL):
                return False
            head = file.read(len(_PNG_HEAD) + 8)
            file.seek(-len(_PNG_TAIL), os.SEEK_END)
            return head == _PNG_HEAD + sides and file.read() == _PNG_TAIL
    except FileNotFoundError:
        return False


def missing(jobs: Jobs, rows: list[int], out: Path, size: Size) -> list[int]:
    """Return those of `rows` whose picture is missing or not complete."""
    there = set(os.listdir(out)) if out.exists() else set()
    with ThreadPoolExecutor(WRITERS) as pool:
        whole = pool.map(
            lambda i: jobs[i].file in there and is_whole(out / jobs[i].file, size), rows
        )
        return [i for i, found in zip(rows, whole, strict=True) if not found]


class Target(NamedTuple):
    """Where pictures are saved, by way of `place`, and the texts of a job's PNG by keyword."""

    out: Path
    place: Path
    texts: Callable[[Job], dict[str, str]] = lambda job: {}


def make(
    jobs: Jobs,
    rows: list[int],
    width: int,
    draw: Callable[[list[Job]], np.ndarray],
    target: Target,
    stop: Callable[[], int | None],
    bar: tqdm,
) -> int:
    """Draw the pictures `rows` in batches of `width`, and save them. Returns how many.

    `stop` is asked after each batch. `draw` makes a whole batch, uint8 [N, H, W, 3], always
    of the same pictures; those that are not in `rows` are not saved again. A batch is written while
    the next one is drawn, so at most two are in memory. `bar` shows how many are written.
    """
    wanted: dict[int, list[int]] = {}
    for i in rows:
        wanted.setdefault(i // width, []).append(i)
    made, writing = 0, []
    with ThreadPoolExecutor(WRITERS) as pool:

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
                pool.submit(
                    save_png,
                    target.out / jobs[i].file,
                    images[i - batch * width],
                    target.place,
                    target.texts(jobs[i]),
                )
                for i in some
            ]
            if stop():
                break
        settle()
    return made


def index(jobs: Jobs, out: Path, place: Path, size: Size) -> int:
    """Write index.jsonl where the pictures of all shares exist. Returns how many are missing."""
    lacking = len(missing(jobs, list(range(len(jobs))), out, size))
    if not lacking:
        write(
            place,
            out / INDEX,
            (json.dumps(job.to_json()) + "\n" for job in jobs),
        )
    return lacking
