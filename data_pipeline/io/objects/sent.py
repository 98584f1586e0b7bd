"""What other machines upload of a run's directory, before its publisher has it on its own disk.

Each save has a place of its own among the objects. Until its files are published, or are known to
be of no use, nobody removes what is there.
"""

import threading
from collections.abc import Iterable


class Sent:
    """The saves that are not published yet, and what was uploaded of them."""

    def __init__(self):
        """Know of no save."""
        self._lock = threading.Lock()
        self._files: dict[str, dict[str, list]] = {}  # place → SHA-256 → [size, SHA-256, object]
        self._ended: set[str] = set()

    def begin(self, place: str) -> None:
        """Keep what is uploaded to `place`. It comes before the first upload."""
        with self._lock:
            self._files[place] = {}

    def add(self, place: str, files: dict[str, list]) -> None:
        """Know files of a save, so that publishing names them: name → [size, SHA-256, object]."""
        with self._lock:
            self._files[place] |= {about[1]: about for about in files.values()}

    def end(self, place: str) -> None:
        """Note that a save has its name, or has failed. More than one call is no error."""
        with self._lock:
            self._ended |= {place} & self._files.keys()

    def known(self) -> dict[str, list]:
        """Return SHA-256 → [size, SHA-256, object] of what need not be uploaded."""
        with self._lock:
            return {digest: x for files in self._files.values() for digest, x in files.items()}

    def places(self) -> tuple[str, ...]:
        """Return how the names of objects begin that stay though nothing names them."""
        with self._lock:
            return tuple(f"{place}/" for place in self._files)

    def ended(self) -> set[str]:
        """Return the places of the saves that have ended."""
        with self._lock:
            return set(self._ended)

    def drop(self, places: Iterable[str]) -> None:
        """Forget saves whose files are published, or were gone before they could be."""
        with self._lock:
            for place in places:
                self._files.pop(place, None)
                self._ended.discard(place)
