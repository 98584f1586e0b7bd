"""Sets of prompts that pictures are scored over: by name, or from a file of the user's.

No set's text comes with the package but that of the scenes, which are rendered by
`data_pipeline.scenes`. The others are published files, which the user has.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from cv3jax.evaluation.prompt_files import read_coco, read_file
from cv3jax.evaluation.prompt_row import PromptRow
from data_pipeline.io.errors import InputError, counted
from data_pipeline.scenes import grammar

SCENES, SHORT = "scenes", "scenes_short"
SCENES_NUM, SCENES_SEED = 200, 1  # the first are those that `quickstart` judges
MAX_SCENES = 100_000
COCO_NUM, COCO_SEED = 5000, 0


@dataclasses.dataclass(frozen=True)
class PromptSet:
    """Prompts in their order.

    Attributes:
        name: how the user named it, without folders.
        prompts: at least one.
        published: whether it is the published set, by its hash; None where no hash is known.
    """

    name: str
    prompts: tuple[PromptRow, ...]
    published: bool | None = None

    @functools.cached_property
    def sha256(self) -> str:
        """Return the hash of the canonical content: a line of JSON for each prompt, in order."""
        found = hashlib.sha256()
        for row in self.prompts:
            line = json.dumps(row.to_json(), sort_keys=True, ensure_ascii=False)
            found.update(f"{line}\n".encode())
        return found.hexdigest()


class Published(NamedTuple):
    """A set that the user has as a file.

    files: the names that it may have. num: its prompts, 0 where they vary. sha256: of its canonical
    content. origin: where it comes from, for messages.
    """

    files: tuple[str, ...]
    num: int
    origin: str
    read: Callable[[Path], list[PromptRow]] = read_file
    sha256: str = ""


PUBLISHED = MappingProxyType(
    {
        "partiprompts": Published(
            ("PartiPrompts.tsv",),
            1632,
            "google-research/parti on GitHub",
            sha256="ca1e7d8a3c951df299f70e2e468510126b82efc93c33e7150ce442b29b9e6917",
        ),
        "drawbench": Published(
            ("DrawBench.csv", "drawbench.csv", "drawbench.tsv", "DrawBench.tsv"),
            200,
            "the table that imagen.research.google links to, saved as CSV",
        ),
        "geneval": Published(
            ("evaluation_metadata.jsonl",),
            553,
            "prompts/ of djghosh13/geneval on GitHub",
            sha256="9539b7ab0cd58fefd225eea1d0bf720239e7d7a2dd84848d92994d235cb29670",
        ),
        "coco5k": Published(
            ("captions_val2014.json", "captions_val2017.json"),
            COCO_NUM,
            "the caption annotations at cocodataset.org",
            functools.partial(read_coco, num=COCO_NUM, seed=COCO_SEED),
        ),
    }
)


def open_set(what: str, folder: Path | None = None, limit: int | None = None) -> PromptSet:
    """Return the prompts that `--prompts` names.

    Args:
        what: "scenes", "scenes_short", a name of PUBLISHED, or the path of a file.
        folder: where the files of PUBLISHED are.
        limit: take so many prompts; of a file they are chosen by a hash of text and place, so that
            all categories have their share, and stay in their order.

    Raises:
        InputError: no such set or file, a damaged file, or fewer prompts than `limit`.
    """
    if what in (SCENES, SHORT):
        rows = (scenes if what == SCENES else short)(SCENES_NUM if limit is None else limit)
        return PromptSet(what, rows)
    if what in PUBLISHED:
        known = PUBLISHED[what]
        rows = known.read(_place(what, known, folder))
        if known.num and what != "coco5k" and len(rows) != known.num:
            raise InputError(
                f"--prompts {what}: the file has {counted(len(rows), 'prompt')}, and the published"
                f" one {known.num:,}; get it from {known.origin}, or give yours as --prompts FILE"
            )
        whole = PromptSet(what, tuple(rows))
        published = whole.sha256 == known.sha256 if known.sha256 else None
        return PromptSet(what, _some(whole.prompts, limit, what), published)
    path = Path(what)
    if not path.exists() and not path.suffix:
        raise InputError(
            f"--prompts {what}: no such set or file; give {SCENES}, {SHORT},"
            f" {', '.join(PUBLISHED)}, or a .txt, .jsonl, .csv, .tsv or .json file"
        )
    return PromptSet(path.name, _some(tuple(read_file(path)), limit, what))


def scenes(num: int) -> tuple[PromptRow, ...]:
    """Return `num` held-out captions of scenes, plain and textured in turn. Raises InputError."""
    if not 1 <= num <= MAX_SCENES:
        raise InputError(f"--limit {num}: give 1..{MAX_SCENES} captions")
    rows = []
    for index in range(num):
        scene = held_out(SCENES_SEED, index)
        kind = "textured" if index % 2 else "plain"
        rows.append(PromptRow(f"{index:05d}", grammar.caption(scene), f"{scene.layout}, {kind}"))
    return tuple(rows)


def short(num: int) -> tuple[PromptRow, ...]:
    """Return what a person may write of the scenes of `scenes`: colours, textures and shapes.

    Sizes, outlines, places and the background are left out. Raises InputError.
    """
    rows = []
    for index, row in enumerate(scenes(num)):
        things = held_out(SCENES_SEED, index).objects
        said = " and ".join(
            f"{'an' if one.colour[0] in 'aeiou' else 'a'} {one.colour}"
            f"{f' {one.texture}' if one.texture else ''} {one.shape}"
            for one in things
        )
        rows.append(row._replace(text=said))
    return tuple(rows)


def held_out(seed: int, index: int) -> grammar.Scene:
    """Return held-out scene number `index` of `seed`; every second one is textured."""
    return grammar.sample_scene(seed, index, split="heldout", textured=float(index % 2))


def _place(name: str, known: Published, folder: Path | None) -> Path:
    """Return the path of a published set's file. Raises InputError where there is none."""
    wanted = " or ".join(dict.fromkeys(known.files))
    if folder is None:
        raise InputError(
            f"--prompts {name} is read from a file, {wanted} ({known.origin}); put it into a folder"
            " and give that as --prompt-sets DIR"
        )
    for file in known.files:
        if (folder / file).exists():
            return folder / file
    raise InputError(
        f"--prompt-sets {folder} has no {wanted}, which --prompts {name} needs; it comes from"
        f" {known.origin}"
    )


def _some(rows: tuple[PromptRow, ...], limit: int | None, what: str) -> tuple[PromptRow, ...]:
    if limit is None:
        return rows
    if not 1 <= limit <= len(rows):
        raise InputError(
            f"--limit {limit}: --prompts {what} has {counted(len(rows), 'prompt')}; give 1.."
            f"{len(rows)}"
        )
    order = sorted(range(len(rows)), key=lambda i: by_hash(f"{i} {rows[i].text}"))
    return tuple(rows[i] for i in sorted(order[:limit]))


def by_hash(text: str) -> bytes:
    """Return what rows are sorted by to choose among them; the same on every machine."""
    return hashlib.sha256(text.encode()).digest()
