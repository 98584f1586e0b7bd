"""The access log: a line of JSON for each request, without prompts unless they are asked for."""

import contextlib
import json
import sys
import threading
import time
from typing import Any

from data_pipeline.io.errors import InputError


class AccessLog:
    """Writes one line for each answered request to a file, to stdout ("-"), or nowhere (None)."""

    def __init__(self, where: str | None, *, prompts: bool = False):
        """Keep the place. prompts: whether lines have prompts."""
        self._where, self.prompts, self._lock = where, prompts, threading.Lock()

    def write(self, **said: Any) -> None:
        """Write what is known of a request; a full disk loses the line and not the request."""
        if self._where is None:
            return
        at = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        if not self.prompts:
            said.pop("prompt", None)
        line = json.dumps({"time": at, **said}) + "\n"
        with contextlib.suppress(OSError, ValueError), self._lock:  # full, or its reader is gone
            if self._where == "-":
                sys.stdout.write(line)
                sys.stdout.flush()
            else:  # opened again for each line, so that the file may be moved away
                with open(self._where, "a") as file:
                    file.write(line)


def check_log(flag: str) -> None:
    """Raise InputError where the file of --access-log cannot be written."""
    if flag in ("-", "none"):
        return
    try:
        with open(flag, "a"):
            pass
    except OSError as e:
        raise InputError(f"--access-log {flag}: {e.strerror}; give another file") from e
