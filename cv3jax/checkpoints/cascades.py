"""The cascade directory that sampling and other runs share.

It holds `cascade.json` and one orbax tree per part, each with a manifest.
"""

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from cv3jax.checkpoints import manifest, newest, stored_sizes
from cv3jax.checkpoints.description import CascadeDescription
from cv3jax.checkpoints.paths import MISMATCH, checkpoint_path
from data_pipeline.io.bounded_json import SETTINGS, load_json
from data_pipeline.io.errors import InputError, first_line, machine_error
from data_pipeline.io.files import replacing
from data_pipeline.io.objects import reading

CASCADE = "cascade.json"
DIGEST = "sha256"  # its field with the hash of the others; cascades of earlier versions lack it
# small trained cascades that are installed with the code and found by name
PACKAGED = Path(__file__).parent.parent / "packaged"


def save_part(directory: str | Path, params: Any) -> None:
    """Write one part's parameters as an orbax tree, replacing what is there.

    params: a tree of arrays or of `streaming.Leaf`. Raises OSError.
    """
    # where there is no cascade, that is said without JAX and orbax
    import jax
    import orbax.checkpoint as ocp

    from cv3jax.checkpoints import streaming
    from cv3jax.checkpoints.signing import Signer
    from cv3jax.checkpoints.writing import UNFINISHED, os_error, remove_unfinished

    path = checkpoint_path(directory)
    signer = Signer(path.parent, path.name)
    handler, args = ocp.StandardCheckpointHandler(), ocp.args.StandardSave(params)
    if isinstance(jax.tree.leaves(params)[0], streaming.Leaf):
        handler, args = streaming.handler(), streaming.save_args(params)
    try:
        with ocp.AsyncCheckpointer(handler, async_options=signer.options()) as checkpointer:
            signer.begin(f"{path.name}{UNFINISHED}")
            checkpointer.save(path, args=args, force=True)
    except (OSError, ValueError) as e:
        if (reason := os_error(e)) is None:
            raise
        remove_unfinished(path.parent, path.name, quiet=0.5)
        raise OSError(
            reason.errno,
            f"could not be written ({reason.strerror}); free some disk space and run the same"
            " command again",
            str(directory),
        ) from e


def check_part(directory: str | Path) -> None:
    """Raise InputError unless a part is as it was written.

    A part of another program has no manifest and is not checked.
    """
    path = Path(directory)
    if (path / manifest.NAME).exists() and (problem := manifest.damage(path)):
        raise InputError(
            f"{directory} is damaged: {problem}; restore it, or let its run write it again"
        )


def load_part(directory: str | Path, like: Any, within: tuple[str, ...] = ()) -> Any:
    """Read one part's parameters as `like` says: shapes, dtypes and (optionally) shardings.

    within: where the part is in the tree of a run's checkpoint (`place_of`).

    Raises:
        InputError: the part is missing, is damaged, or has other names or shapes than `like`.
    """
    from cv3jax.checkpoints import direct

    path = checkpoint_path(directory)
    if not path.is_dir():
        raise InputError(f"{directory} does not exist: the checkpoint is incomplete; restore it")
    check_part(path.parent if within else directory)
    small = not within and direct.is_small(path, like)
    try:
        return direct.read(path, like) if small else _restored(path, like, within)
    except Exception as e:
        # orbax raises a bare Exception where a piece does not unpack to what it should be
        if not isinstance(e, (*MISMATCH, FileNotFoundError)) and type(e) is not Exception:
            raise
        raise (
            machine_error(e, directory)
            or InputError(
                f"{directory} does not hold the model that {CASCADE} describes"
                f" ({first_line(e).partition('. ')[0]}); restore it, or let its run write it again"
            )
        ) from e


def _restored(path: Path, like: Any, within: tuple[str, ...]) -> Any:
    """Return what orbax reads."""
    import jax
    import jax.numpy as jnp
    import orbax.checkpoint as ocp

    from cv3jax.checkpoints import streaming

    if within:
        return streaming.restore(path, like, within)
    with ocp.StandardCheckpointer() as checkpointer:
        # arrays that NumPy stored come back as NumPy's
        return jax.tree.map(jnp.asarray, checkpointer.restore(path, like))


def packaged() -> list[str]:
    """Return the names of the cascades that are installed with the package."""
    return sorted(place.parent.name for place in PACKAGED.glob(f"*/{CASCADE}"))


def cascade_at(path: str | Path) -> Path | None:
    """Return the cascade directory that `path` names, or None.

    It is `path` itself, or the `path`/cascade that a run wrote. Where nothing is at `path`, it is
    the packaged cascade of that name.
    """
    path = reading.local(path)
    if str(path) in packaged() and not path.exists():
        return PACKAGED / path
    return next((place for place in (path, path / "cascade") if (place / CASCADE).is_file()), None)


def find_cascade(path: str | Path) -> Path:
    """Return `cascade_at`, or the newest checkpoint of a run that has no cascade yet.

    A message names the checkpoint that is taken. For a distillation it is that of the last round.
    Raises InputError where there is neither.
    """
    path = reading.local(path)
    if (place := cascade_at(path)) is not None:
        return place
    for run in (Path(path), *newest.rounds(Path(path))):
        if (place := cascade_at(run) or newest.newest_step(run)) is not None:
            newest.say_newest(Path(path), place)
            return place
    names = packaged()
    others = f", or the name of an installed cascade: {', '.join(names)}" if names else ""
    if str(Path(path)) in names:  # something else of that name hides it, such as a folder of data
        others = f"; the installed cascade of this name is {PACKAGED / path}"
    if inside := [str(place) for place in _folders(Path(path)) if _is_run(place)]:
        others = f", such as {' or '.join(inside[:3])}{others}"
    advice = f"give a run's --workdir, or a cascade directory{others}"
    raise InputError(
        f"{path} is not a checkpoint: it has neither {CASCADE} nor cascade/{CASCADE}, nor a run's"
        f" checkpoints/; {advice}"
    )


def _folders(path: Path) -> list[Path]:
    """Return the first folders inside `path`, by name, where it is one that can be listed."""
    try:
        return sorted(place for place in path.iterdir() if place.is_dir())[:100]
    except OSError:
        return []


def _is_run(place: Path) -> bool:
    """Return whether `find_cascade` may find a cascade at `place`."""
    return cascade_at(place) is not None or any((place / "checkpoints").glob("[0-9]*"))


def pinned(path: str | Path) -> Path:
    """Return `path`, or of a run without a cascade the checkpoint that is its newest now.

    So everyone who reads it later reads the same. Raises InputError as `find_cascade` does.
    """
    path = reading.local(path)
    return path if cascade_at(path) is not None else find_cascade(path)


def read_cascade(path: str | Path) -> tuple[Path, CascadeDescription]:
    """Return (directory, description) of the cascade at `path`; every reader of a cascade calls it.

    A run without a cascade stands for its newest checkpoint; `place_of` says where its parts are.
    Raises InputError where the cascade is missing, damaged or of another format.
    """
    directory = find_cascade(path)
    where = str(directory / CASCADE)
    if (directory / CASCADE).is_file():
        description = CascadeDescription.from_json(_read_description(directory), where)
    else:
        description, where = newest.describe(directory), newest.named(directory)
    if problem := stored_sizes.differing(description, lambda part: place_of(directory, part)):
        raise InputError(f"{where} is damaged: {problem}; restore both")
    return directory, description


def _read_description(directory: Path) -> Any:
    path = directory / CASCADE
    try:
        value = load_json(path, SETTINGS)
    except (OSError, ValueError) as e:
        raise (machine_error(e, path) or InputError(f"{path} is damaged: {first_line(e)}")) from e
    if isinstance(value, dict) and DIGEST in value and value.pop(DIGEST) != digest_of(value):
        raise InputError(
            f"{path} is not as it was written: its {DIGEST} is of other fields; restore it, or"
            f" remove its field {DIGEST} if you changed it yourself"
        )
    return value


def digest_of(value: dict[str, Any]) -> str:
    """Return the SHA-256 of a description's fields, in any order and with any blanks.

    Many fields leave no mark on the arrays' shapes: groups, head_dim, prediction, start. A changed
    one would give other pictures.
    """
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def place_of(directory: str | Path, part: str) -> tuple[Path, tuple[str, ...]]:
    """Return (the orbax tree that holds `part`, the path within it).

    directory: the one that `read_cascade` returned. "t5/tokenizer" is the text encoder's folder.
    """
    directory = Path(directory)
    if (directory / CASCADE).is_file():
        return directory / part, ()
    return newest.place_of(directory, part)


def write_cascade(directory: str | Path, description: CascadeDescription) -> None:
    """Write cascade.json in one step, after the parts: without it there is no cascade yet."""
    value = description.to_json()
    value[DIGEST] = digest_of(value)
    with replacing(Path(directory) / CASCADE) as temporary:
        temporary.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


def carry_part(source: str | Path, target: str | Path) -> None:
    """Copy a part of one cascade into another, by hard links where the file system has them.

    Links are safe, because a part is never changed in place.
    """

    def link(a, b):
        try:
            os.link(a, b)
        except OSError:  # another file system
            shutil.copy2(a, b)

    if Path(source).resolve() == Path(target).resolve():
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=link)
