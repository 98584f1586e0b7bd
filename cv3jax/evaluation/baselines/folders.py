"""Folders that diffusers loads: which class they are of, and that they hold no code and no pickles.

Only classes of diffusers and transformers are accepted, and only .safetensors files. A folder that
names a class of its own, or whose weights are .bin or .ckpt alone, is refused before it is loaded.
"""

import hashlib
import importlib.util
import re
from pathlib import Path
from typing import Any, NamedTuple

from cv3jax.evaluation.protocol import digest
from data_pipeline.io.bounded_json import RECORDS, SETTINGS, ParseError, load_json, read_bytes
from data_pipeline.io.errors import InputError, raise_machine

INDEX, CONFIG = "model_index.json", "config.json"
LIBRARIES = ("diffusers", "transformers")
_VARIANTS = ("fp16", "bf16")  # files of half the size that the hub has beside the others
# diffusion_pytorch_model.fp16-00001-of-00002.safetensors, and the older order of its parts
_WEIGHTS = re.compile(
    r"(?:model|diffusion_pytorch_model)(?:\.(?P<a>\w+))?(?:-\d{5}-of-\d{5})?(?:\.(?P<b>\w+))?"
    r"\.safetensors"
)
_BESIDE = (".json", ".txt", ".model")  # settings and vocabularies


class Folder(NamedTuple):
    """A folder that is loaded.

    name: the class that it is of. variant: of its weights' files, such as "fp16", or None. files:
    all that are read, below the folder. index: its model_index.json.
    """

    path: Path
    name: str
    variant: str | None
    files: tuple[Path, ...]
    index: dict[str, Any]


def open_pipeline(path: Path, source: str, without: tuple[str, ...] = ()) -> Folder:
    """Return what the folder of a pipeline holds.

    Args:
        path: the folder, with a model_index.json.
        source: where it can be had, for messages.
        without: components that are not taken from it.

    Raises:
        InputError: it is none, names a class of its own, or a component has no safetensors.
    """
    index = _read(path, INDEX, source)
    name = _class_of(index, path / INDEX)
    parts = {
        part: value
        for part, value in index.items()
        if isinstance(value, list) and part not in without and any(value)
    }
    for part, value in parts.items():
        _check_component(path, part, value)
        if not (path / part).is_dir():
            raise InputError(f"{path}: {INDEX} names {part}, which is not there; get it again")
    models = [path / part for part in parts if (path / part / CONFIG).is_file()]
    variant, weights = _weights(models, source)
    beside = [path / INDEX, *(file for part in parts for file in _settings(path / part))]
    return Folder(path, name, variant, tuple(sorted((*beside, *weights))), index)


def open_network(path: Path, name: str, source: str) -> Folder:
    """Return what the folder of one network of the class `name` holds. Raises as `open_pipeline`.

    It has a config.json and the weights.
    """
    found = _class_of(_read(path, CONFIG, source), path / CONFIG)
    if found != name:
        raise InputError(f"{path / CONFIG} is of a {found}; give a {name} ({source})")
    variant, weights = _weights([path], source)
    return Folder(path, name, variant, tuple(sorted((path / CONFIG, *weights))), {})


def fingerprint(folders: tuple[Folder, ...]) -> str:
    """Return the SHA-256 of all that is read of the folders; it takes seconds a gigabyte."""
    from cv3jax.weights.digests import digest_of  # imports JAX

    def of(file: Path) -> str:
        if file.suffix == ".safetensors":
            return digest_of(file)
        return hashlib.sha256(read_bytes(file, RECORDS.bytes)).hexdigest()

    return digest(
        [
            {str(file.relative_to(folder.path)): of(file) for file in folder.files}
            for folder in folders
        ]
    )


def settings_of(folder: Folder, part: str) -> dict[str, Any]:
    """Return the config.json of a component; empty where there is none."""
    place = folder.path / part / CONFIG
    return _read(folder.path / part, CONFIG, "") if place.is_file() else {}


def _read(path: Path, name: str, source: str) -> dict[str, Any]:
    if not path.is_dir():
        raise InputError(f"{path} is not there; get the folder of {source}")
    try:
        value = load_json(path / name, SETTINGS)
    except OSError as e:
        raise_machine(e, path / name)
        raise InputError(f"{path / name}: {e.strerror}; get the folder of {source}") from e
    except ParseError as e:
        raise InputError(f"{path / name}: {e}; get it again") from e
    if not isinstance(value, dict):
        raise InputError(f"{path / name} is no JSON object; get it again")
    return value


def _class_of(value: dict[str, Any], place: Path) -> str:
    name = value.get("_class_name")
    if not (isinstance(name, str) and re.fullmatch(r"[A-Za-z]\w{0,99}", name)):
        raise InputError(
            f"{place}: _class_name {str(name)[:60]} is no class of diffusers; code in a folder is"
            " not run"
        )
    return name


def _check_component(path: Path, part: str, value: list[Any]) -> None:
    """Raise InputError unless a component is of a class that comes with the libraries."""
    library, name = (*value, None, None)[:2]
    wrong = not re.fullmatch(r"[A-Za-z]\w{0,99}", part)
    if (
        wrong
        or not isinstance(name, str)
        or (library not in LIBRARIES and not _of_diffusers(library))
    ):
        raise InputError(
            f"{path / INDEX}: {part[:60]} is a {str(library)[:40]}.{str(name)[:60]}, which is in"
            " neither diffusers nor transformers; code in a folder is not run"
        )


def _of_diffusers(library: Any) -> bool:
    """Return whether a library is the folder of a pipeline in diffusers, such as wuerstchen."""
    if not (isinstance(library, str) and re.fullmatch(r"[a-z][a-z0-9_]{0,99}", library)):
        return False
    places = importlib.util.find_spec("diffusers").submodule_search_locations or ()
    folders = [Path(place) / "pipelines" for place in places]
    return any(
        (each / library).is_dir() for root in folders for each in (root, root / "deprecated")
    )


def _settings(folder: Path) -> list[Path]:
    return [
        file
        for file in folder.iterdir()
        if file.suffix in _BESIDE and file.is_file() and ".index." not in file.name
    ]


def _weights(folders: list[Path], source: str) -> tuple[str | None, list[Path]]:
    """Return (the variant that is loaded, the weights' files of it).

    Diffusers takes a component's plain files where it has none of the variant.
    """
    there: list[dict[str | None, list[Path]]] = []
    for folder in folders:
        kinds: dict[str | None, list[Path]] = {}
        for file in sorted(folder.iterdir()):
            if match := _WEIGHTS.fullmatch(file.name):
                kinds.setdefault(match["a"] or match["b"], []).append(file)
        if not kinds:
            others = [f.name for f in folder.iterdir() if f.suffix in (".bin", ".ckpt", ".pt")]
            why = f"{others[0]} is a pickle, which may run code; " if others else ""
            raise InputError(f"{folder} has no .safetensors: {why}get that of {source}")
        there.append(kinds)
    for variant in (None, *_VARIANTS):
        if all(variant in kinds or None in kinds for kinds in there):
            return variant, [
                file for kinds in there for file in kinds.get(variant, kinds.get(None))
            ]
    raise InputError(
        f"{folders[0].parent}: its networks have .safetensors of unlike variants, such as"
        f" {next(file.name for kinds in there for files in kinds.values() for file in files)}; get"
        f" all files of one, {source}"
    )
