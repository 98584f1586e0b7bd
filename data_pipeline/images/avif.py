"""Looking at an AVIF's EXIF before Pillow does, which reads all of it when it opens the file."""

import re

from data_pipeline.images.bounds import MAX_EXIF, TooCostlyError, exif_cost

_BEGINS = re.compile(rb"II\*\0|MM\0\*")
_MOST = (
    64  # places at which EXIF may begin: there is one, and bytes of pixels hardly ever look alike
)


def check(data: bytes) -> None:
    """Raise TooCostlyError where EXIF may begin anywhere in the file whose values are too many.

    Its place follows from several tables, which a damaged file may have in any form.
    """
    for number, found in enumerate(_BEGINS.finditer(data)):
        if number == _MOST or exif_cost(data[found.start() :]) > MAX_EXIF:
            raise TooCostlyError(f"EXIF whose values have more than {MAX_EXIF:,} bytes")
