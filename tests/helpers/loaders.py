"""Make loaders from flat keywords, for tests that change one setting at a time."""

import dataclasses

from data_pipeline.loading.loader import Loader, make_loader
from data_pipeline.loading.settings import CropSettings, LoaderSettings

CROP = {field.name for field in dataclasses.fields(CropSettings)}
GIVEN = ("tokenize", "rows", "prepare")  # which are no settings


def loader_of(records, **fields) -> Loader:
    """Return `make_loader` of `records` with the fields of both settings as keywords."""
    given = {name: fields.pop(name) for name in GIVEN if name in fields}
    crop = CropSettings(**{name: fields.pop(name) for name in CROP & fields.keys()})
    return make_loader(records, LoaderSettings(crop=crop, **fields), **given)
