"""What libraries print by themselves: warnings, log lines and tracebacks, made visible.

Their texts quote what they read, such as names of classes in a tokenizer's settings.
"""

import logging
import sys
import traceback
import types
import warnings
from typing import Any, TextIO

from data_pipeline.io.terminal import MOST, visible


def make_visible() -> None:
    """Escape what is not printable in all warnings, log lines and tracebacks of this process."""
    logging.setLogRecordFactory(_Record)
    logging.raiseExceptions = False  # a line that cannot be written is no traceback
    warnings.showwarning = _warn
    sys.excepthook = _uncaught


class _Record(logging.LogRecord):
    """A log record whose message, and whose traceback, are visible."""

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        if isinstance(self.exc_info, tuple) and self.exc_info[0] is not None:
            self.exc_text = _lines("".join(traceback.format_exception(*self.exc_info))).rstrip()

    def getMessage(self) -> str:
        """Return the message."""
        return _lines(super().getMessage())


def _lines(text: str) -> str:
    return "\n".join(visible(line, MOST) for line in text.split("\n"))


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    text = warnings.formatwarning(message, category, filename, lineno, line)
    (file or sys.stderr).write(_lines(text))


def _uncaught(
    kind: type[BaseException], e: BaseException, place: types.TracebackType | None
) -> None:
    sys.stderr.write(_lines("".join(traceback.format_exception(kind, e, place))))
