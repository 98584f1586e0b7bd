"""Expansions on disk: a small JSON file each, found by what was asked of which model."""

import contextlib
import dataclasses
import hashlib
import json
import os
import tempfile
from pathlib import Path

from data_pipeline.expansion.result import Expansion
from data_pipeline.io.bounded_json import SETTINGS, ParseError, load_json
from data_pipeline.io.errors import InputError, first_line, naming

FORMAT = 1
_LIMITS = dataclasses.replace(SETTINGS, bytes=256 * 1024)


def key_of(prompt: str, model: str, template_sha256: str, limit: int) -> str:
    """Return the name of an expansion's file. limit: the most tokens that it may have."""
    asked = [FORMAT, prompt, model, template_sha256, limit]
    return hashlib.sha256(json.dumps(asked).encode()).hexdigest()


class Store:
    """A folder of expansions; it is made when the first one is kept.

    first_counts: what is kept first stays, so that all processes of a run draw the same text;
    otherwise the last one does.
    """

    def __init__(self, folder: Path, *, first_counts: bool = False):
        """Keep the arguments."""
        self.folder, self.first_counts = folder, first_counts

    def get(self, key: str) -> Expansion | None:
        """Return the expansion of a key, or None. Raises InputError where its file is damaged."""
        path = self._path(key)
        try:
            return Expansion.from_json(load_json(path, _LIMITS))
        except FileNotFoundError:
            return None
        except (ParseError, InputError) as e:
            raise InputError(
                f"{path} is damaged ({first_line(e, 120)}); remove it to ask for the expansion"
                " again"
            ) from e

    def put(self, key: str, expansion: Expansion) -> Expansion:
        """Keep an expansion, whole or not at all. Returns the one that is kept."""
        path = self._path(key)
        path.parent.mkdir(parents=True, exist_ok=True)
        with naming(path):
            number, name = tempfile.mkstemp(prefix=".", dir=path.parent)
            temporary = Path(name)
            try:
                with open(number, "wb") as file:
                    file.write(json.dumps(expansion.to_json(), ensure_ascii=False).encode())
                    file.flush()
                    os.fsync(file.fileno())
                temporary.chmod(0o644)
                if not (self.first_counts and self._link(temporary, path)):
                    temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        return (self.get(key) or expansion) if self.first_counts else expansion

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"  # folders of a million files are slow

    def _link(self, temporary: Path, path: Path) -> bool:
        """Return whether `path` is there now, as another process or this one made it."""
        with contextlib.suppress(FileExistsError):
            try:
                os.link(temporary, path)
            except FileExistsError:
                raise
            except OSError:  # a file system without links
                return path.exists()
        return True
