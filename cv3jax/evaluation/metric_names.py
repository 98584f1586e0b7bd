"""The names of the metrics, for the command line: the registry imports what the metrics need."""

from data_pipeline.io.errors import InputError

NAMES = (
    *("aes", "hps", "hps21", "imagereward", "clip"),
    *("fid", "kid", "prc", "fdlite"),
    *("ocr", "judge", "named"),
)


def check_name(name: str) -> None:
    """Raise InputError, which lists the metrics, unless `name` is one of them."""
    if name not in NAMES:
        raise InputError(f"--metrics: no metric {name[:40]!r}; give some of {', '.join(NAMES)}")
