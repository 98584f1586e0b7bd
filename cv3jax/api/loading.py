"""Find a cascade by its name, its path or its place on the Hub, and load it."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from cv3jax.adapters.applied import applied_to
from cv3jax.adapters.given import parse_all
from cv3jax.api.environment import prepare, value_errors
from cv3jax.api.recording import Recorder
from cv3jax.cascade import pipeline
from cv3jax.checkpoints import cascades
from cv3jax.distributed import parse_axes
from cv3jax.distributed.mesh import AXES, make_mesh
from cv3jax.kernels import KINDS
from cv3jax.sampling.png_record import DTYPES
from data_pipeline.io.arguments import nearest
from data_pipeline.io.errors import first_line
from data_pipeline.io.extras import advice

HUB = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")  # owner/name


def load(
    source: str | Path,
    mesh: Any,
    dtype: str | None,
    attention: str,
    lora: str | Path | Sequence[str | Path],
) -> tuple[pipeline.Cascade, Path, Recorder]:
    """Return (the loaded cascade, its directory, its records). See `Cascade.load`."""
    prepare()
    if dtype is not None and dtype not in DTYPES:
        raise ValueError(f"dtype {dtype!r}: give one of {', '.join(DTYPES)}")
    if attention not in KINDS:
        raise ValueError(f"attention {attention!r}: give one of {', '.join(KINDS)}")
    with value_errors():
        devices = mesh_of(mesh)
        place = cascades.pinned(find(source))
        loras = applied_to(parse_all(_texts(lora)), cascades.read_cascade(place)[1], place)
        engine = pipeline.load(place, mesh=devices, attention=attention, dtype=dtype)
        recorder = Recorder(place, engine.description, dtype, loras)
        return loras.change(engine), place, recorder


def _texts(lora: str | Path | Sequence[str | Path]) -> list[str]:
    """Return adapters as --lora has them. Raises ValueError on other types."""
    each = [lora] if isinstance(lora, str | Path) else lora
    if not isinstance(each, Sequence) or not all(isinstance(one, str | Path) for one in each):
        raise ValueError(f"lora {lora!r}: give a path, text such as 'FILE:0.8', or a list of these")
    return [str(one) for one in each]


def find(source: str | Path) -> Path | str:
    """Return what to load: `source` itself, or the download of a Hub's "owner/name"."""
    if not isinstance(source, str | Path):
        raise ValueError(f"source {source!r}: give a name, or the path of a directory")
    text = str(source)
    if isinstance(source, str) and not text.strip():
        raise ValueError(f"source {text!r}: {_forms()}")
    if Path(text).exists() or text in cascades.packaged():
        return source
    if not HUB.fullmatch(text):
        close = nearest(text, cascades.packaged())
        meant = f"did you mean {close}? Otherwise " if close else ""
        raise ValueError(f"{text}: there is no such cascade; {meant}{_forms()}")
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    except ModuleNotFoundError as e:
        raise ValueError(
            f"{text}: there is no such directory; to take it from the Hugging Face Hub, run"
            f" {advice('hub')}"
        ) from e
    try:
        return Path(snapshot_download(text))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as e:
        raise ValueError(
            f"{text}: there is no such directory, and the Hugging Face Hub does not give it:"
            f" {first_line(e)}"
        ) from e


def _forms() -> str:
    """Return what a source can be."""
    return (
        f"give the name of an installed cascade ({', '.join(cascades.packaged())}), the path of a"
        " cascade's or a run's directory, or owner/name of the Hugging Face Hub"
    )


def mesh_of(mesh: Any) -> Mesh | None:
    """Return the mesh of a `Mesh`, of text such as "data=2,fsdp=4", or None.

    Raises ValueError on a mesh with other axes.
    """
    if mesh is None or isinstance(mesh, Mesh):
        if mesh is not None and tuple(mesh.axis_names) != AXES:
            raise ValueError(
                f"a mesh with the axes {', '.join(map(str, mesh.axis_names))}: it needs"
                f" {', '.join(AXES)}, in this order; an axis may have size 1"
            )
        # the models are compiled under automatic sharding, whatever types the caller's axes have
        return mesh and Mesh(mesh.devices, AXES)
    if not isinstance(mesh, str):
        raise ValueError(f'mesh {mesh!r}: give a jax.sharding.Mesh, or text such as "data=2"')
    return make_mesh(**parse_axes(mesh))
