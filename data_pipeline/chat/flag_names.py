"""The names of a command's flags, which the messages about its server have in them."""

from typing import NamedTuple


class FlagNames(NamedTuple):
    """The flags of a command that messages name."""

    address: str = "--endpoint"
    model: str = "--model"
    key: str = "--api-key-env"
