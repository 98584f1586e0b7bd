"""An API key, and text from outside without it: servers repeat keys, whole and in parts."""

import re
from typing import Any

LEAST = 8  # characters of a part of a key that is not shown
HIDDEN = "***"


class Secret:
    """A key that is sent to a server and shown nowhere."""

    def __init__(self, key: str | None):
        """Keep the key; None and "" hide nothing."""
        key = key or ""
        size = min(LEAST, len(key))
        self._parts = {key[i : i + size] for i in range(len(key) - size + 1)} if key else set()
        # each place of a text where a part begins; parts that overlap are one run
        self._begins = re.compile(f"(?={'|'.join(map(re.escape, self._parts))})")
        self._size = size

    def redact(self, text: str) -> str:
        """Return a text with *** for every part of the key that has LEAST characters or more.

        Do it before the text is cut. A key shorter than LEAST is hidden where all of it stands.
        """
        if not any(part in text for part in self._parts):  # much quicker than the pattern
            return text
        out, end = [], 0
        for found in self._begins.finditer(text):
            begin = found.start()
            if begin > end or not out:
                out += [text[end:begin], HIDDEN]
            end = max(end, begin + self._size)
        return "".join([*out, text[end:]])

    def without(self, value: Any) -> Any:
        """Return a value of JSON whose texts and names are redacted."""
        if not self._parts:
            return value
        if isinstance(value, str):
            return self.redact(value)
        if isinstance(value, list):
            return [self.without(each) for each in value]
        if isinstance(value, dict):
            return {self.redact(name): self.without(each) for name, each in value.items()}
        return value


NONE = Secret(None)
