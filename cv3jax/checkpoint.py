"""What is written and read back: a run's resumable checkpoints, and the cascade directory that sampling and other runs share.

A run's checkpoint holds train state, data position and run facts in one step directory; orbax renames it into place when
complete, so a killed save leaves the previous one. A cascade directory is `cascade.json` and one orbax tree per part.
"""

import json
import os
import shutil
from pathlib import Path
from typing import Any

import grain
import jax
import orbax.checkpoint as ocp

from data_pipeline.errors import InputError

CASCADE = "cascade.json"
FORMAT = 1
STAGES = ("base", "relay")
FIELDS = {  # what a description must hold, and of which type
    "vae": {"model": dict, "scale": (int, float)},
    "t5": {"model": dict, "length": int},
    "stage": {"kind": str, "model": dict, "prediction": str, "factor": int, "image_size": int, "start": int, "steps": int,
              "guidance": (int, float), "eta": (int, float), "form": str},
}  # fmt: skip


def open_manager(directory: str | Path, keep: int = 2) -> ocp.CheckpointManager:
    """The checkpoints under `directory`, the newest `keep` of them; saves run in the background. Close it when done."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True)
    return ocp.CheckpointManager(Path(directory).absolute(), options=options, item_names=("state", "data", "run"))


def save(manager: ocp.CheckpointManager, step: int, state: Any, data: grain.DatasetIterator, run: dict) -> None:
    """Save train state, data iterator and `run` (JSON: the config, seconds so far) as `step`. Returns once `state` may be donated."""
    items = {"state": ocp.args.StandardSave(state), "data": grain.checkpoint.CheckpointSave(data), "run": ocp.args.JsonSave(run)}
    manager.save(step, args=ocp.args.Composite(**items), force=True)


def read_run(manager: ocp.CheckpointManager, step: int) -> dict:
    """The `run` facts of a checkpoint. Raises InputError when it is damaged."""
    try:
        return manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore())).run
    except Exception as e:
        raise InputError(f"checkpoint {manager.directory / str(step)} cannot be restored: {_first_line(e)}") from e


def restore(manager: ocp.CheckpointManager, step: int, like: Any, data: grain.DatasetIterator) -> Any:
    """The state of `step`, placed as `like` (ShapeDtypeStructs with shardings, of any mesh); `data` is set to its position.

    Raises:
        InputError: the checkpoint is damaged or belongs to another model.
    """
    items = {"state": ocp.args.StandardRestore(like), "data": grain.checkpoint.CheckpointRestore(data)}
    try:
        return manager.restore(step, args=ocp.args.Composite(**items)).state
    except Exception as e:
        raise InputError(f"checkpoint {manager.directory / str(step)} cannot be restored: {_first_line(e)}") from e


def save_part(directory: str | Path, params: Any) -> None:
    """Write one part's parameters as an orbax tree, replacing what is there."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(Path(directory).absolute(), params, force=True)


def load_part(directory: str | Path, like: Any) -> Any:
    """Read one part's parameters as `like` says: shapes, dtypes and (optionally) shardings.

    Raises:
        InputError: missing, damaged, or of other names or shapes than `like`.
    """
    path = Path(directory).absolute()
    if not path.is_dir():
        raise InputError(f"{directory} does not exist: the checkpoint has no such part")
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, like)
    except Exception as e:
        raise InputError(f"{directory} does not hold the model that {CASCADE} describes: {_first_line(e)}") from e


def abstract(tree: Any, sharding: Any = None) -> Any:
    """`tree`'s shapes and dtypes as ShapeDtypeStructs, with `sharding` (one, or a matching tree) attached."""
    shapes = jax.eval_shape(lambda x: x, tree)
    if sharding is None:
        return shapes
    shardings = sharding if jax.tree.structure(sharding) == jax.tree.structure(shapes) else jax.tree.map(lambda _: sharding, shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)


def find_cascade(path: str | Path) -> Path:
    """The cascade directory at `path`, or the one a run left in `path`/cascade.

    Raises:
        InputError: neither holds a cascade.json.
    """
    for candidate in (Path(path), Path(path) / "cascade"):
        if (candidate / CASCADE).is_file():
            return candidate
    raise InputError(f"{path} is no checkpoint: it has neither {CASCADE} nor cascade/{CASCADE}; give a run's --workdir or its cascade")


def read_cascade(path: str | Path) -> tuple[Path, dict]:
    """(directory, description) of the cascade at `path`. Raises InputError when missing, damaged or of another format."""
    directory = find_cascade(path)
    try:
        description = json.loads((directory / CASCADE).read_text())
    except (OSError, ValueError) as e:
        raise InputError(f"{directory / CASCADE} is damaged: {_first_line(e)}") from e
    if not isinstance(description, dict) or description.get("format") != FORMAT:
        raise InputError(f"{directory / CASCADE} is not a cascade description of format {FORMAT}")
    if problem := _misfit(description):
        raise InputError(f"{directory / CASCADE} is damaged: {problem}")
    return directory, description


def _misfit(description: dict) -> str | None:
    """What is wrong with a description from outside: its names become paths and its values sizes."""
    stages = description.get("stages")
    if not isinstance(stages, dict) or (foreign := sorted(set(stages) - set(STAGES))):
        return f"stages must be of {' and '.join(STAGES)}" + (f", not {foreign[0]!r}" if isinstance(stages, dict) else "")
    sections = {**{name: FIELDS[name] for name in ("vae", "t5") if name in description}, **dict.fromkeys(stages, FIELDS["stage"])}
    for name, fields in sections.items():
        section = stages[name] if name in stages else description[name]
        for field, kinds in fields.items():
            if not isinstance(section, dict) or not isinstance(section.get(field), kinds):
                return f"{name} has no proper {field}"
    return None if "t5" in description or not stages else "there are stages but no t5"


def write_cascade(directory: str | Path, description: dict) -> None:
    """Write cascade.json last and whole: a directory without one is not a cascade yet."""
    target = Path(directory) / CASCADE
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps({"format": FORMAT, **description}, indent=2, sort_keys=True) + "\n")
    temporary.replace(target)


def carry_part(source: str | Path, target: str | Path) -> None:
    """Bring a part of one cascade into another: hard links where the file system has them (parts are never changed in place)."""

    def link(a, b):
        try:
            os.link(a, b)
        except OSError:  # another file system
            shutil.copy2(a, b)

    if Path(source).resolve() == Path(target).resolve():
        return
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, copy_function=link)


def _first_line(e: Exception) -> str:
    return (str(e).strip().splitlines() or [type(e).__name__])[0][:240]
