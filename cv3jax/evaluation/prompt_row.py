"""A prompt of a set."""

from typing import Any, NamedTuple

NONE = "all"  # the category of a prompt that has none


class PromptRow(NamedTuple):
    """A prompt as it is scored.

    id: unique in its set. seed: of its first picture where the file gives one.
    """

    id: str
    text: str
    category: str = NONE
    seed: int | None = None

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them; a seed only where there is one."""
        value = {"id": self.id, "prompt": self.text, "category": self.category}
        return value if self.seed is None else {**value, "seed": self.seed}
