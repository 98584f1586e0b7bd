"""What `--lora` says: [STAGE=]FILE[:WEIGHT].

Nothing is read but whether there is such a file. That of an address is fetched.
"""

import difflib
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from cv3jax.adapters.format_names import CONFIG, FILES
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.fetched import fetched
from data_pipeline.io.objects.store import address_of

MOST = 16  # adapters at once
MOST_WEIGHT = 100.0
FLAG = "--lora"
_STAGE = re.compile(r"(base|relay)=(.+)", re.DOTALL)


class LoraFile(NamedTuple):
    """An adapter that was asked for.

    Attributes:
        path: its file or folder.
        weight: what its change is multiplied by.
        stage: for which stage; None where the file or its sizes say it.
        address: where it was fetched from; None for a path of this machine.
    """

    path: Path
    weight: float = 1.0
    stage: str | None = None
    address: str | None = None

    @property
    def where(self) -> str:
        """What messages call it."""
        return f"{FLAG} {self.address or self.path}"


def parse(text: str) -> LoraFile:
    """Return what a value of --lora says.

    A name of a file that has a colon or an equals sign is taken as it stands where there is such a
    file. An address may be that of a file, of a folder or of a fine-tune's workdir.

    Raises InputError where there is no such file, or on a weight that cannot be; OSError where a
    store fails.
    """
    stage, rest, weight = None, text, 1.0
    if "\0" not in text and not Path(text).exists() and (found := _STAGE.fullmatch(text)):
        stage, rest = found[1], found[2]
    head, colon, tail = rest.rpartition(":")
    if (
        colon
        and head
        and "\0" not in rest
        and not Path(rest).exists()
        and (number := _number(tail)) is not None
    ):
        rest, weight = head, number
    if not (math.isfinite(weight) and abs(weight) <= MOST_WEIGHT):
        raise InputError(f"{FLAG} {text}: the weight must be -{MOST_WEIGHT:g}..{MOST_WEIGHT:g}")
    if "\0" not in rest and (address := address_of(rest)):
        place = fetched(address, FLAG, beside=(CONFIG,), inside=(*FILES, CONFIG))
        return LoraFile(place, weight, stage, address)
    if not rest.strip() or "\0" in rest or not Path(rest).exists():
        raise InputError(f"{FLAG} {text}: {_missing(rest)}")
    return LoraFile(Path(rest), weight, stage)


def _missing(rest: str) -> str:
    """Return what is wrong with a path at which there is nothing."""
    head, colon, tail = rest.rpartition(":")
    if "\0" in rest:
        return "there is no such file"
    if colon and head and Path(head).exists():
        return f"{tail!r} is no number; a weight follows the colon, as in {Path(head).name}:0.8"
    if near := _nearest(Path(rest)):
        return f"there is no such file; the nearest one is {near}"
    return "there is no such file; give FILE, FILE:WEIGHT or STAGE=FILE:WEIGHT"


def _nearest(path: Path) -> Path | None:
    """Return what lies where `path` would lie, under a similar name, or None."""
    try:
        names = [one.name for one in itertools.islice(path.parent.iterdir(), 10_000)]
    except OSError:
        return None
    close = difflib.get_close_matches(path.name, names, 1, 0.6)
    return path.parent / close[0] if close else None


def parse_all(texts: Sequence[str] | None) -> list[LoraFile]:
    """Return what all values of --lora say. Raises InputError as `parse`, and on too many."""
    if texts and len(texts) > MOST:
        raise InputError(f"{len(texts)} {FLAG}: at most {MOST} are applied at once")
    return [parse(text) for text in texts or ()]


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
