"""What is written and read back: a run's resumable checkpoints, and the cascade directory that
sampling and other runs share.

A run's checkpoint holds train state, data position and run facts in one step directory. It gets its
manifest (every file's SHA-256) and only then its name, so a killed save leaves the previous one,
and damage is seen before anything is read. A cascade directory is `cascade.json` and one orbax tree
per part, each with a manifest too.
"""

import contextlib
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import grain
import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

from cv3jax import leaves, manifest
from data_pipeline.io.errors import InputError, first_line, naming

CASCADE = "cascade.json"
# small trained cascades that are installed with the code, each found by its name
PACKAGED = Path(__file__).parent / "packaged"
FORMAT = 2
STAGES = ("base", "relay")
FIELDS = {  # what a description must hold, and of which type
    "vae": {"model": dict, "scale": (int, float)},
    "t5": {"model": dict, "length": int},
    "stage": {
        "kind": str,
        "model": dict,
        "text_width": int,
        "prediction": str,
        "factor": int,
        "image_size": int,
        "start": int,
        "steps": int,
        "guidance": (int, float),
        "eta": (int, float),
        "form": str,
    },
}
_UNFINISHED = ocp.path.atomicity_types.TMP_DIR_SUFFIX
# seconds; orbax measures its timeouts with the wall clock, which may be set forward in the middle
# of a save
_PATIENCE = 10**7
# what orbax raises on a tree of other names, shapes or types
_MISMATCH = (ValueError, TypeError, KeyError)


class DamagedError(InputError):
    """A checkpoint is not what was written.

    `path` is its directory, `what` the line without advice, `intact` the newest whole step.
    """

    def __init__(self, path: Path, problem: str, intact: int | None):
        self.path, self.what, self.intact = path, f"checkpoint {path} is damaged: {problem}", intact
        older = (
            "start anew (no older one is intact)"
            if intact is None
            else f"give --resume_from={intact} to go on from that older one"
        )
        super().__init__(f"{self.what}; restore the file, or {older}")


def open_manager(directory: str | Path, keep: int = 2) -> ocp.CheckpointManager:
    """The checkpoints under `directory`, the newest `keep` of them; saves run in the background.

    Close it when done.
    """
    path = Path(directory).absolute()
    background = ocp.options.AsyncOptions(
        timeout_secs=_PATIENCE, post_finalization_callback=lambda: _sign(path, "[0-9]*")
    )
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, async_options=background)
    return ocp.CheckpointManager(path, options=options, item_names=("state", "data", "run"))


def steps(directory: str | Path) -> list[int]:
    """The steps of the complete checkpoints under `directory`, oldest first: by their names,
    whatever the files' times.
    """
    return sorted(
        int(path.name)
        for path in Path(directory).glob("[0-9]*")
        if path.name.isdigit() and path.is_dir()
    )


def remove_unfinished(directory: str | Path) -> None:
    """Remove what killed or failed saves left; it would only take up space.

    Nothing else may be saving there.
    """
    for path in Path(directory).glob(f"[0-9]*{_UNFINISHED}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_old(directory: str | Path, keep: int) -> None:
    """Remove all but the newest `keep` checkpoints: a kill may have come when one of them was half
    removed.
    """
    for step in steps(directory)[:-keep]:
        shutil.rmtree(Path(directory) / str(step))


def save(
    manager: ocp.CheckpointManager, step: int, state: Any, data: grain.DatasetIterator, run: dict
) -> None:
    """Save train state, data position and `run` (JSON: the config, seconds so far) as `step`.

    Returns once `state` may be donated.

    All processes call it. The position is the same for all of them, and for any number of them.

    Raises:
        OSError: this checkpoint or the one before it could not be written; which remain is said.
    """
    items = {
        "state": ocp.args.StandardSave(state),
        "data": ocp.args.JsonSave(data.get_state()),
        "run": ocp.args.JsonSave(run),
    }
    with _writing(manager):
        manager.save(step, args=ocp.args.Composite(**items), force=True)


def check_saved(manager: ocp.CheckpointManager) -> None:
    """Raise what `save` would if the save in the background has failed meanwhile.

    Does not wait for one that runs.
    """
    if not manager.is_saving_in_progress():
        finish(manager)


def finish(manager: ocp.CheckpointManager) -> None:
    """Wait for the save in the background; raises as `save` does."""
    with _writing(manager):
        manager.wait_until_finished()


@contextlib.contextmanager
def _writing(manager: ocp.CheckpointManager):
    try:
        yield
    except (OSError, ValueError) as e:
        reason = _os_error(e)
        if reason is None:
            raise
        directory = Path(manager.directory)
        remove_unfinished(directory)  # a full disk has no room for it
        left = steps(directory)
        kept = f"the checkpoint of step {left[-1]} remains" if left else "there is none yet"
        line = (
            f"a checkpoint could not be written ({reason.strerror}), {kept}; make room and run the"
            " same command to continue"
        )
        raise OSError(reason.errno, line, str(directory)) from e


def _os_error(e: Exception) -> OSError | None:
    """The system's error that orbax or tensorstore reports, or None where `e` is of another
    kind.
    """
    if isinstance(e, OSError):
        return OSError(e.errno, e.strerror or first_line(e), e.filename)
    code = re.search(r"os_error_code='(\d+)'", str(e))
    return OSError(int(code[1]), os.strerror(int(code[1]))) if code else None


def _sign(directory: Path, pattern: str) -> None:
    """Called by orbax in each process when all files of a checkpoint are there and it is about to
    get its name.
    """
    if jax.process_index() != 0:
        return
    for path in directory.glob(f"{pattern}{_UNFINISHED}"):
        manifest.write(path)


def verify(directory: str | Path, step: int) -> None:
    """Raise DamagedError, naming file and newest intact older step, unless the checkpoint of `step`
    is as it was written.
    """
    directory = Path(directory)
    if problem := manifest.damage(directory / str(step)):
        older = (
            s
            for s in reversed(steps(directory))
            if s < step and manifest.damage(directory / str(s)) is None
        )
        raise DamagedError(directory / str(step), problem, next(older, None))


def set_aside(directory: str | Path, step: int, target: Path) -> list[Path]:
    """Move the checkpoints newer than `step` into `target`, deleting none.

    Returns where they are.
    """
    moved = []
    for newer in (s for s in steps(directory) if s > step):
        target.mkdir(exist_ok=True)
        names = (target / (f"{newer}" if n == 0 else f"{newer}.{n}") for n in range(10_000))
        place = next(path for path in names if not path.exists())
        moved.append((Path(directory) / str(newer)).rename(place))
    return moved


def read_run(manager: ocp.CheckpointManager, step: int) -> dict:
    """The `run` facts of a checkpoint."""
    return manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run


def run_of(directory: str | Path, step: int) -> dict:
    """`read_run` of the checkpoints under `directory`."""
    manager = open_manager(directory)
    try:
        return read_run(manager, step)
    finally:
        manager.close()


def restore(
    manager: ocp.CheckpointManager, step: int, like: Any, data: grain.DatasetIterator
) -> Any:
    """The state of `step`, placed as `like` (ShapeDtypeStructs with shardings, of any mesh); `data`
    is set to its position.

    `verify` it first: some damage would come back as other numbers.

    Raises:
        InputError: the checkpoint belongs to another model.
    """
    try:
        state = manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))
        ).state
        data.set_state(_position(Path(manager.directory) / str(step) / "data"))
        data.start_prefetch()
        return state
    except _MISMATCH as e:
        where = f"checkpoint {Path(manager.directory) / str(step)}"
        raise InputError(
            f"{where} is not of this model ({first_line(e)}); give a new --workdir"
        ) from e


def _position(directory: Path) -> dict:
    """The data position; older checkpoints have it under another name."""
    names = ("metadata", "process_0-of-1.json")
    return json.loads(
        next(directory / name for name in names if (directory / name).is_file()).read_text()
    )


def save_part(directory: str | Path, params: Any) -> None:
    """Write one part's parameters, arrays or `leaves.Leaf`, as an orbax tree, replacing what is
    there. Raises OSError.
    """
    path = Path(directory).absolute()
    background = ocp.options.AsyncOptions(
        timeout_secs=_PATIENCE, post_finalization_callback=lambda: _sign(path.parent, path.name)
    )
    handler, args = ocp.StandardCheckpointHandler(), ocp.args.StandardSave(params)
    if isinstance(jax.tree.leaves(params)[0], leaves.Leaf):
        handler, args = leaves.handler(), leaves.save_args(params)
    try:
        with ocp.AsyncCheckpointer(handler, async_options=background) as checkpointer:
            checkpointer.save(path, args=args, force=True)
    except (OSError, ValueError) as e:
        if (reason := _os_error(e)) is None:
            raise
        shutil.rmtree(path.with_name(path.name + _UNFINISHED), ignore_errors=True)
        raise OSError(
            reason.errno,
            f"could not be written ({reason.strerror}); make room and run the same command",
            str(directory),
        ) from e


def check_part(directory: str | Path) -> None:
    """Raise InputError unless a part is as it was written.

    One of another program has no manifest, and is taken as it is.
    """
    path = Path(directory)
    if (path / manifest.NAME).exists() and (problem := manifest.damage(path)):
        raise InputError(
            f"{directory} is damaged: {problem}; restore it, or have its run write it again"
        )


def load_part(directory: str | Path, like: Any) -> Any:
    """Read one part's parameters as `like` says: shapes, dtypes and (optionally) shardings.

    Raises:
        InputError: missing, damaged, or of other names or shapes than `like`.
    """
    path = Path(directory).absolute()
    if not path.is_dir():
        raise InputError(f"{directory} does not exist: the checkpoint has no such part")
    check_part(directory)
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            # what was stored by NumPy comes back so
            return jax.tree.map(jnp.asarray, checkpointer.restore(path, like))
    except (*_MISMATCH, FileNotFoundError) as e:
        raise InputError(
            f"{directory} does not hold the model that {CASCADE} describes: {first_line(e)}"
        ) from e


def abstract(tree: Any, sharding: Any = None) -> Any:
    """`tree`'s shapes and dtypes as ShapeDtypeStructs, with `sharding` (one, or a matching tree)
    attached.
    """
    shapes = jax.eval_shape(lambda x: x, tree)
    if sharding is None:
        return shapes
    shardings = (
        sharding
        if jax.tree.structure(sharding) == jax.tree.structure(shapes)
        else jax.tree.map(lambda _: sharding, shapes)
    )
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings
    )


def packaged() -> list[str]:
    """The names of the cascades that came with the package."""
    return sorted(place.parent.name for place in PACKAGED.glob(f"*/{CASCADE}"))


def cascade_at(path: str | Path) -> Path | None:
    """The cascade directory at `path`, or the one a run left in `path`/cascade; the packaged one of
    that name where nothing is; or None.
    """
    path = Path(path)
    if str(path) in packaged() and not path.exists():
        return PACKAGED / path
    return next((place for place in (path, path / "cascade") if (place / CASCADE).is_file()), None)


def find_cascade(path: str | Path) -> Path:
    """`cascade_at`; raises InputError where that is None."""
    if (place := cascade_at(path)) is not None:
        return place
    names = packaged()
    others = f", or one that is installed: {', '.join(names)}" if names else ""
    if str(Path(path)) in names:  # something else of that name hides it, such as a folder of data
        others = f"; the installed {path} is {PACKAGED / path}"
    advice = f"give a run's --workdir or its cascade{others}"
    raise InputError(
        f"{path} is no checkpoint: it has neither {CASCADE} nor cascade/{CASCADE}; {advice}"
    )


def read_cascade(path: str | Path) -> tuple[Path, dict]:
    """(directory, description) of the cascade at `path`.

    Raises InputError when missing, damaged or of another format.
    """
    directory = find_cascade(path)
    try:
        description = json.loads((directory / CASCADE).read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"{directory / CASCADE} is damaged: {first_line(e)}") from e
    if not isinstance(description, dict) or description.get("format") not in (1, FORMAT):
        raise InputError(f"{directory / CASCADE} is not a cascade description of format {FORMAT}")
    if description["format"] == 1:
        _widen(description)
    if problem := _misfit(description):
        raise InputError(f"{directory / CASCADE} is damaged: {problem}")
    return directory, description


def _widen(description: dict) -> None:
    """Make format 1 the present one: its stages always stood beside the text encoder whose features
    they read.
    """
    # what is wrong with it is said next
    with contextlib.suppress(AttributeError, KeyError, TypeError):
        for stage in description["stages"].values():
            stage.setdefault("text_width", description["t5"]["model"]["channels"])


def _misfit(description: dict) -> str | None:
    """What is wrong with a description from outside: its names become paths and its values
    sizes.
    """
    stages = description.get("stages")
    if not isinstance(stages, dict) or (foreign := sorted(set(stages) - set(STAGES))):
        return f"stages must be of {' and '.join(STAGES)}" + (
            f", not {foreign[0]!r}" if isinstance(stages, dict) else ""
        )
    sections = {
        **{name: FIELDS[name] for name in ("vae", "t5") if name in description},
        **dict.fromkeys(stages, FIELDS["stage"]),
    }
    for name, fields in sections.items():
        section = stages[name] if name in stages else description[name]
        for field, kinds in fields.items():
            if not isinstance(section, dict) or not isinstance(section.get(field), kinds):
                return f"{name} has no proper {field}"
    for name, stage in stages.items():
        if "distilled" in stage and not _knows(stage["distilled"]):
            return f"{name} has no proper distilled"
        if (
            "t5" in description
            and description["t5"]["model"].get("channels") != stage["text_width"]
        ):
            return (
                f"the {name} reads text features {stage['text_width']} wide, t5 makes"
                f" {description['t5']['model'].get('channels')}"
            )
    return None


def _knows(distilled: Any) -> bool:
    """Whether an entry says for how many steps, and which w (None: not known), a stage was
    distilled.
    """
    if (
        not isinstance(distilled, dict)
        or not isinstance(distilled.get("steps"), int)
        or "w" not in distilled
    ):
        return False
    w = distilled["w"]
    return w is None or (
        isinstance(w, list) and len(w) == 2 and all(isinstance(x, (int, float)) for x in w)
    )


def write_cascade(directory: str | Path, description: dict) -> None:
    """Write cascade.json last and whole: a directory without one is not a cascade yet."""
    target = Path(directory) / CASCADE
    temporary = target.with_suffix(".tmp")
    with naming(temporary):
        temporary.write_text(
            json.dumps({"format": FORMAT, **description}, indent=2, sort_keys=True) + "\n"
        )
    temporary.replace(target)


def carry_part(source: str | Path, target: str | Path) -> None:
    """Bring a part of one cascade into another: hard links where the file system has them (parts
    are never changed in place).
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
