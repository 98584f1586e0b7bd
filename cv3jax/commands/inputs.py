"""What a command reads, looked for before JAX is imported: a misspelt path is refused at once."""

from pathlib import Path

from cv3jax.checkpoints import cascades
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError
from data_pipeline.io.objects.store import address_of
from data_pipeline.loading.shares import parse
from data_pipeline.records import check_records


def check_stage_inputs(settings: StageSettings) -> None:
    """Raise InputError where a dataset of the recipe or config.cascade is not there.

    The datasets are those of config.data.path and config.train.eval_data. What they hold
    is checked when the stage is built.
    """
    if settings.data.path:
        try:
            for path, _ in parse(settings.data.path):
                _check(path, settings)
        except InputError as e:
            raise InputError(f"config.data.path: {e}") from e
    if settings.train.eval_every and settings.train.eval_data:
        try:
            _check(settings.train.eval_data, settings)
        except InputError as e:
            raise InputError(f"config.train.eval_data: {e}") from e
    if settings.stage != "vae" and settings.cascade:
        cascades.find_cascade(settings.cascade)


def _check(path: str, settings: StageSettings) -> None:
    """Raise InputError where there is no dataset at `path`, or no cache for that of a bucket."""
    if not address_of(path):  # what a bucket holds is listed when the stage is built
        check_records(Path(path))
    elif not settings.data.cache_dir:
        raise InputError(
            f"{path} is in a bucket; give --config.data.cache_dir, a directory on this host's disk"
            " for the shards that are read"
        )
