"""The environment variable that a flag names, which has an API key."""

import os
import re

from data_pipeline.io.errors import InputError

_NAME = re.compile(r"[A-Z][A-Z0-9_]{0,39}|[a-z][a-z0-9]{0,9}(?:_[a-z]{1,12}){1,4}")


def key_of(flag: str, name: str) -> str:
    """Return the key in the variable that a flag names.

    Raises InputError where it is missing or empty. People also give the key in place of the name,
    so the message shows only what looks like a name.
    """
    if key := os.environ.get(name):
        return key
    shown = name if _NAME.fullmatch(name) else "***"
    raise InputError(
        f"{flag} {shown}: the environment has no such variable, or it is empty; set one to the API"
        " key, and give its name"
    )
