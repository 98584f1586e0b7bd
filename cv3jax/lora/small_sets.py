"""From a folder of pictures to the fields of a recipe: class pictures, records, feature cache.

All of them are made under the workdir before training, and each is kept where nothing changed.
"""

import dataclasses
from pathlib import Path
from typing import Any

from cv3jax.distributed import hosts, processes
from cv3jax.lora.class_pictures import draw_class_pictures
from cv3jax.lora.features import features_of
from cv3jax.lora.folder_captions import is_packed
from cv3jax.lora.picture_settings import PictureSettings
from cv3jax.lora.pictures import Seen, records_of
from cv3jax.training.resume import hold
from cv3jax.training.settings import StageSettings
from data_pipeline.io.errors import InputError
from data_pipeline.io.files import check_directory


def prepare(
    pictures: Path,
    workdir: Path,
    settings: StageSettings,
    chosen: PictureSettings,
    *,
    begun: Any = None,
) -> dict[str, str]:
    """Return {field: value} of config.data for a fine-tune on a folder of pictures.

    They are path, and cache where the stage can read one. Process 0 makes what they name. A folder
    of records is taken as it is. begun: the content of the data that the run has so far
    (`lora.run.check_unchanged`); other pictures are an error.

    Raises:
        InputError: the folder, a picture, the checkpoint or the recipe does not fit, or another run
            holds the workdir.
        StoppedError: a signal came; the same command continues.
        OSError: the machine fails; the same command continues.
    """
    check_directory(workdir, "--workdir")
    packed = is_packed(pictures)
    if not packed and workdir.resolve().is_relative_to(pictures.resolve()):
        raise InputError(
            f"--workdir {workdir} is inside --pictures {pictures}, so the run's previews would be"
            " taken for pictures; give another"
        )
    if packed and chosen.class_prompt:
        raise InputError(
            f"config.pictures.class_prompt = {chosen.class_prompt}: {pictures} holds records, to"
            " which class pictures are not added; give the folder of pictures, or no class_prompt"
        )

    def make() -> dict[str, str]:
        records = pictures
        if not packed:
            prior = draw_class_pictures(settings, chosen, workdir)
            data = settings.data
            seen = Seen(data.image_size, data.min_side or 0, settings.masked)
            records = records_of(pictures, workdir, chosen, seen, prior, begun)
        fields = {"path": str(records)}
        if chosen.cache:
            data = dataclasses.replace(settings.data, path=str(records), cache=None)
            features = features_of(dataclasses.replace(settings, data=data), workdir)
            fields |= {} if features is None else {"cache": str(features)}
        return fields

    with hold(workdir):  # another run may be reading what would be written again
        fields, theirs = processes.first("pictures", lambda: [make(), str(workdir)])
    for name, value in fields.items():
        if Path(value).is_relative_to(theirs):  # the workdir as process 0 has it
            place = workdir / Path(value).relative_to(theirs)
            hosts.bring(place)
            fields[name] = str(place)
    return fields
