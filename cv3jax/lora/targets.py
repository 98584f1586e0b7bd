"""Which matrices of a UNet get an adapter: by names of groups, or by patterns of their paths."""

import fnmatch
from collections.abc import Iterable

from data_pipeline.io.errors import InputError

# group → patterns of the paths of its matrices
GROUPS = {
    "attention": tuple(f"*_attention/{name}" for name in ("q", "k", "v", "out")),
    "feed_forward": ("*/ff_in", "*/ff_out"),
    "projections": ("*_transformer/proj_in", "*_transformer/proj_out"),
    "convolutions": (
        *("conv_in", "conv_final", "*_sample"),
        *(f"*/{name}" for name in ("conv_in", "conv_out", "skip")),
    ),
    "embeddings": ("time_in", "time_out", "size_in", "size_out", "*/emb"),
    "all": ("*",),
}
SHOWN = 3  # paths that a message names


def names_of(targets: str) -> tuple[str, ...]:
    """Return the groups and patterns of config.lora.targets, in order."""
    return tuple(name.strip() for name in targets.split(",") if name.strip())


def chosen(targets: str, paths: Iterable[str]) -> tuple[str, ...]:
    """Return those of the matrices at `paths` that config.lora.targets names, sorted.

    Raises InputError where one of its groups or patterns has none of them.
    """
    paths, found = sorted(paths), set()
    for name in names_of(targets):
        patterns = GROUPS.get(name, (name,))
        some = {path for path in paths if any(fnmatch.fnmatchcase(path, one) for one in patterns)}
        if not some:
            there = [group for group in GROUPS if _some(GROUPS[group], paths)]
            raise InputError(
                f"config.lora.targets = {targets}: {name!r} is no layer of this model; give"
                f" {', '.join(there)}, or patterns such as {', '.join(_spread(paths))}"
            )
        found |= some
    return tuple(sorted(found))


def _some(patterns: Iterable[str], paths: list[str]) -> bool:
    return any(fnmatch.filter(paths, one) for one in patterns)


def _spread(paths: list[str]) -> list[str]:
    """Return a few of the paths, far from each other."""
    return [paths[i * (len(paths) - 1) // (SHOWN - 1)] for i in range(SHOWN)]
