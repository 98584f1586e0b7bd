"""What `cv3jax sample` reads beside prompts: pictures to enlarge, and noise that another program drew."""

import zipfile
from pathlib import Path

import numpy as np

from data_pipeline.errors import InputError
from data_pipeline.images import MAX_IMAGE_BYTES, decode_rgb, open_image

_HEADER = 4096  # bytes an array in an .npz has beside its values, at most


def read_images(paths: list[Path], multiple: int) -> np.ndarray:
    """Square pictures of one size → uint8 [N, side, side, 3]. Raises InputError on others, and where a side is no such multiple."""
    images = []
    for path in paths:
        try:
            with path.open("rb") as file:
                image = np.asarray(decode_rgb(open_image(file.read(MAX_IMAGE_BYTES + 1))))
        except OSError as e:
            raise InputError(f"--image {path}: {e.strerror or e}") from e
        except InputError as e:
            raise InputError(f"--image {path}: {e}") from e
        height, width = image.shape[:2]
        if height != width or height % multiple:
            raise InputError(f"--image {path} is {width}×{height}; give a square picture whose side is a multiple of {multiple}")
        if image.shape != (first := images[0] if images else image).shape:
            raise InputError(f"--image {path} is {width}×{height}, the first is {first.shape[1]}×{first.shape[0]}; give one size a call")
        images.append(image)
    return np.stack(images)


def read_noise(path: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    """Standard normal noise from an .npz: float arrays of just these names and shapes [N, h, w, z], as float32. Raises InputError."""
    wanted = ", ".join(f"{name} {list(shape)}" for name, shape in shapes.items())
    try:
        with zipfile.ZipFile(path) as file:
            sizes = {member.filename.removesuffix(".npy"): member.file_size for member in file.infolist()}
        if sizes.keys() != shapes.keys():
            raise InputError(f"--noise {path} holds {', '.join(sorted(sizes)[:8]) or 'nothing'}; it takes {wanted}")
        for name, shape in shapes.items():
            if sizes[name] > 8 * int(np.prod(shape)) + _HEADER:  # before it is unpacked
                raise InputError(f"--noise {path}: {name} has {sizes[name]:,} bytes, too many; it takes {wanted}")
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in shapes}
    except (OSError, ValueError, zipfile.BadZipFile, EOFError) as e:
        raise InputError(f"--noise {path} is no .npz of numbers: {getattr(e, 'strerror', None) or e}; it takes {wanted}") from e
    for name, shape in shapes.items():
        if arrays[name].shape != shape or arrays[name].dtype.kind != "f" or not np.isfinite(arrays[name]).all():
            raise InputError(f"--noise {path}: {name} is {arrays[name].dtype} {list(arrays[name].shape)}; it takes {wanted}, finite floats")
    return {name: value.astype(np.float32) for name, value in arrays.items()}
