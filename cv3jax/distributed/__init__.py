"""The mesh, the sharding of parameters and batches, and the processes of a run."""

from data_pipeline.io.errors import InputError

AXES = ("data", "fsdp", "tensor", "context")  # of the mesh


def parse_axes(text: str) -> dict[str, int]:
    """Return the sizes that --mesh gives: "data=-1,fsdp=4" → {"data": -1, "fsdp": 4}.

    Raises InputError on another text.
    """
    try:
        given = [axis.split("=") for axis in text.split(",")]
        sizes = {name: int(size) for name, size in given}
    except ValueError:
        sizes = {}
    if not sizes or len(sizes) < len(given) or not sizes.keys() <= set(AXES):
        raise InputError(
            f"--mesh {text}: give sizes for some of the axes {', '.join(AXES)}, e.g. data=-1,fsdp=4"
        )
    return sizes
