"""The settings of an expansion, as a command's flags give them."""

import dataclasses
import math
from pathlib import Path

from data_pipeline.chat.flag_names import FlagNames
from data_pipeline.expansion.template import DEFAULT, Template, load_template
from data_pipeline.io import extras
from data_pipeline.io.errors import InputError

FLAGS = FlagNames("--expand", "--expand-model", "--expand-key-env")


@dataclasses.dataclass(frozen=True)
class ExpandSettings:
    """Which model expands prompts, and what happens where it cannot.

    Attributes:
        where: a server's address, including /v1, or the path of a local model.
        model: the server's name of the model; a name for a local one.
        key: the API key, which is never shown; None: none.
        template: the template's file.
        cache: the folder in which expansions are kept for other runs; None: none.
        fallback: draw a prompt as it is where it has no usable expansion, instead of an error.
        timeout: seconds for one request, from its connection to the last byte.
        at_once: the most requests in flight.
        retries, backoff: as for `Sender`.

    Raises:
        InputError: a value is out of range.
    """

    where: str
    model: str | None = None
    key: str | None = dataclasses.field(default=None, repr=False)
    template: Path = DEFAULT
    cache: Path | None = None
    fallback: bool = False
    timeout: float = 120.0
    at_once: int = 8
    retries: int = 3
    backoff: float = 0.5

    def __post_init__(self):
        """Check the values."""
        if not (math.isfinite(self.timeout) and 0.01 <= self.timeout <= 3600):
            raise InputError(f"--expand-timeout {self.timeout:g}: give 0.01 to 3600 seconds")
        if self.served and not self.model:
            raise InputError(
                f"--expand {self.where} needs --expand-model, the server's name for the model"
            )

    @property
    def served(self) -> bool:
        """Return whether a server is asked."""
        return "://" in self.where

    def check(self) -> Template:
        """Return the template, after all checks for which no request is sent.

        Raises:
            InputError: the address, the path, the key or the template is wrong, or a library is
                missing.
        """
        template = load_template(self.template)
        if self.served:
            extras.check("--expand with a server", "httpx", extra="expand")
            from data_pipeline.chat.endpoint import check_key, parse_address

            parse_address(self.where, FLAGS)
            check_key(self.key)
        else:
            from data_pipeline.expansion.local import check_local

            if self.key:
                raise InputError("--expand-key-env goes with a server's address as --expand")
            check_local(Path(self.where), template.settings)
        return template
