"""An expanded prompt as it is recorded: what was asked, what was drawn, and by which model."""

import dataclasses
from typing import Any

from data_pipeline.io.errors import InputError


@dataclasses.dataclass(frozen=True)
class Expansion:
    """The text that is drawn for a prompt.

    Attributes:
        prompt: what the user wrote.
        text: what is drawn: the model's text, or the prompt where there is a `fallback`.
        model: the model's name.
        template_sha256: the hash of the template's bytes.
        tokens: how many tokens of the cascade's text encoder `text` takes, its end token included.
        fallback: why the prompt is drawn as it is; empty where the model's text is.
    """

    prompt: str
    text: str
    model: str
    template_sha256: str
    tokens: int
    fallback: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, value: Any) -> "Expansion":
        """Return the expansion that `to_json` wrote. Raises InputError on anything else."""
        kinds = {field.name: field.type for field in dataclasses.fields(cls)}
        if (
            not isinstance(value, dict)
            or value.keys() != kinds.keys()
            or any(type(value[name]) is not kind for name, kind in kinds.items())
        ):
            raise InputError(f"not an expansion; it has the fields {', '.join(kinds)}")
        return cls(**value)
