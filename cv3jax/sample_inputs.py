"""What `cv3jax sample` reads beside prompts: pictures to enlarge, and noise that another program drew."""

import zipfile
import zlib
from pathlib import Path

import numpy as np

from data_pipeline.errors import InputError, first_line
from data_pipeline.images import MAX_IMAGE_BYTES, decode_rgb, open_image

MAX_SIDE = 4096  # pixels, of a picture to enlarge
_HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


def read_images(paths: list[Path], multiple: int) -> np.ndarray:
    """Square pictures of one size → uint8 [N, side, side, 3]. Raises InputError on others, and where a side is no such multiple."""
    images: dict[Path, np.ndarray] = {}
    for path in dict.fromkeys(paths):  # one for all prompts is read once
        try:
            with path.open("rb") as file:
                image = np.asarray(decode_rgb(open_image(file.read(MAX_IMAGE_BYTES + 1))))
        except OSError as e:
            raise InputError(f"--image {path}: {e.strerror or e}") from e
        except InputError as e:
            raise InputError(f"--image {path}: {e}") from e
        height, width = image.shape[:2]
        if height != width or height % multiple or height > MAX_SIDE:
            right = f"give a square picture whose side is a multiple of {multiple}, at most {MAX_SIDE}"
            raise InputError(f"--image {path} is {width}×{height}; {right}")
        if image.shape != (first := next(iter(images.values()), image)).shape:
            raise InputError(f"--image {path} is {width}×{height}, the first is {first.shape[1]}×{first.shape[0]}; give one size a call")
        images[path] = image
    return np.stack([images[path] for path in paths])


def read_noise(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Standard normal noise from an .npz: float arrays of just these names and shapes [N, h, w, z], as float32. Raises InputError."""
    wanted = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    try:
        with zipfile.ZipFile(path) as file:
            names = {name.removesuffix(".npy") for name in file.namelist()}
            if names != shapes.keys():
                raise InputError(f"--noise {path} holds {', '.join(sorted(names)[:8]) or 'nothing'}; it takes {wanted}")
            for name, shape in shapes.items():
                with file.open(f"{name}.npy") as member:  # before any of its values are unpacked
                    found, _, dtype = _HEADERS[np.lib.format.read_magic(member)](member)
                if found != shape or dtype.kind != "f":
                    raise InputError(f"--noise {path}: {name} is {dtype} {list(found)}; it takes {wanted}, of floats")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name].astype(np.float32) for name in shapes}
    # KeyError: another version of .npy; RuntimeError: members that are encrypted or packed in a way zipfile does not know
    except (OSError, ValueError, KeyError, EOFError, RuntimeError, zipfile.BadZipFile, zlib.error) as e:
        raise InputError(f"--noise {path} is no .npz of numbers: {getattr(e, 'strerror', None) or first_line(e)}; it takes {wanted}") from e
    if wild := [name for name, value in arrays.items() if not np.isfinite(value).all()]:
        raise InputError(f"--noise {path}: {wild[0]} has values that are not finite; it takes {wanted}, standard normal")
    return arrays
