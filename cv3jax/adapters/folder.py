"""A folder of adapters that requests name; every one is read at the start, and must fit."""

from pathlib import Path

from cv3jax.adapters import formats
from cv3jax.adapters.applied import Applied, applied_to
from cv3jax.adapters.format_names import FILES
from cv3jax.adapters.given import LoraFile
from cv3jax.checkpoints.description import CascadeDescription
from data_pipeline.io.errors import InputError
from data_pipeline.io.progress import say
from data_pipeline.io.terminal import visible

MOST = 64  # adapters
NAMED = 5  # other things that a line names
LONGEST = 100  # characters of a name


def read_folder(
    folder: Path, description: CascadeDescription, source: str | Path | None = None
) -> dict[str, Applied]:
    """Return the adapters in a folder by name: NAME.safetensors, and folders called NAME.

    Such a folder is PEFT's, diffusers' or a fine-tune's workdir. Anything else in `folder` is left
    out, and a line on stderr names it. source: as for `applied_to`.

    Raises InputError where one cannot be read or does not fit the cascade, where there is none or
    too many, and on two of one name.
    """
    if not folder.is_dir():
        raise InputError(f"--lora-dir {folder}: there is no such folder")
    inside = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    places = [path for path in inside if path.suffix == ".safetensors" or formats.holds(path)]
    if not places:
        raise InputError(
            f"--lora-dir {folder} has neither NAME.safetensors nor a folder with"
            f" {' or '.join(FILES)}"
        )
    if others := [visible(path.name, 80) for path in inside if path not in places]:
        shown = ", ".join(others[:NAMED]) + (", …" if len(others) > NAMED else "")
        say(f"cv3jax: --lora-dir {folder}: no adapter, and left out: {shown}")
    if len(places) > MOST:
        raise InputError(f"--lora-dir {folder} has {len(places)} adapters, and may have {MOST}")
    found: dict[str, Applied] = {}
    for path in places:
        name = path.name.removesuffix(".safetensors")
        if name in found:
            raise InputError(f"--lora-dir {folder} has two adapters called {name}; rename one")
        if not name.isprintable() or len(name) > LONGEST:
            raise InputError(
                f"--lora-dir {folder}: {name[:40]!r} is no name that a request can give"
            )
        (found[name],) = applied_to([LoraFile(path)], description, source).applied
    return found
