"""SIGTERM, Ctrl-C and SIGHUP of a command: from its first moment none of them has its own effect.

A command that is asked to end does so with one line and exit code 143, 130 or 129. Where work must
first be saved, a block of `heeding` is told instead. One handler serves the whole process, so that
there is no moment between two blocks in which the system's action would hold. A thread ends the
process where the main thread is in a call that takes long, such as a compilation.
"""

import atexit
import contextlib
import os
import signal
import threading
import time
import types
from collections.abc import Callable, Iterator

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
GRACE = 0.5  # seconds in which the main thread has to answer before the thread does


# what this process does at the next signal
_state = types.SimpleNamespace(
    installed=False,
    handled=0,  # signals that the main thread has answered
    first=None,  # the signal that a block of `heeding` noted first
    note=None,  # the function of the innermost such block
    times=0,  # signals for which that is called
    saved=None,  # whether everything is saved that this process has made
    leave=None,  # tells other processes
    ending=threading.Lock(),  # taken, and never released, by the thread that ends the process
    ended=0,  # the number of signals when it did
)


def install() -> None:
    """Answer SIGNALS from now on; call it first of all. One that is ignored, by nohup, stays so."""
    _state.installed = True
    for number in SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _arrived)
    atexit.register(_ignore)  # called last of all, as it is the first
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True).start()


def first() -> int | None:
    """Return the signal that came to this process first, where a block of `heeding` noted it."""
    return _state.first


@contextlib.contextmanager
def heeding(note: Callable[[int], None], times: int = 1) -> Iterator[None]:
    """Call `note(number)` for the first `times` signals, in the main thread; one more ends all.

    Without `install`, as in a notebook, the handlers that were there are restored after the block,
    and before one more signal. In another thread than the main one nothing is heeded.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if not _state.installed:
        with _own_handlers(note, times):
            yield
        return
    before = _state.note, _state.times
    _state.note, _state.times = note, times
    try:
        yield
    finally:
        _state.note, _state.times = before


@contextlib.contextmanager
def saving(saved: Callable[[], bool]) -> Iterator[None]:
    """Let a SIGTERM that ends the process in the block have exit code 0 where `saved()` is true."""
    before, _state.saved = _state.saved, saved
    try:
        yield
    finally:
        _state.saved = before


def telling(leave: Callable[[str, int], None]) -> None:
    """Call `leave(line, exit code)` before a signal ends the process, to tell other processes."""
    _state.leave = leave


def _arrived(number: int, frame: object) -> None:
    """Answer a signal in the main thread."""
    _state.handled += 1
    if _state.note is None or _state.handled > _state.times:
        _end(number, _state.handled)
    _state.first = _state.first or number
    _state.note(number)


def _ignore() -> None:
    """Ignore SIGNALS: when Python ends it would give them back their own effect, and lose the code.

    What is left then takes no time.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def _end(number: int, count: int) -> None:
    """End the process with one line. Nothing is unwound: that could be swallowed, or take long.

    count: signals that have come. Where the other thread is ending the process, as that may take
    long too, this one waits; a further signal ends it at once.
    """
    if not _state.ending.acquire(blocking=False):
        while count <= _state.ended:
            time.sleep(1)
        os._exit(128 + number)
    _state.ended = count
    code = 0 if number == signal.SIGTERM and _is_saved() else 128 + number
    line = f"{signal.Signals(number).name}: interrupted; run the same command again"
    start = "\n" if os.isatty(2) else ""  # below the bar that may be there
    with contextlib.suppress(OSError):  # after a SIGHUP the terminal may be gone
        os.write(2, f"{start}cv3jax: {line}\n".encode())
    try:
        if _state.leave:
            _state.leave(line, code)
    finally:
        os._exit(code)


def _is_saved() -> bool:
    try:
        return _state.saved is not None and _state.saved()
    except OSError:
        return False


def _watch(reader: int) -> None:
    """End the process where the main thread does not answer a signal that ends it."""
    came = 0
    while True:
        for number in os.read(reader, 64):
            if number not in SIGNALS:
                continue
            came += 1
            until = time.monotonic() + GRACE
            while _state.handled < came and time.monotonic() < until:
                time.sleep(0.01)
            if _state.handled < came and (_state.note is None or came > _state.times):
                _end(number, came)


@contextlib.contextmanager
def _own_handlers(note: Callable[[int], None], times: int) -> Iterator[None]:
    """Heed signals by handlers of this block's own."""
    before = {number: signal.getsignal(number) or signal.SIG_DFL for number in SIGNALS}
    count = 0

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    def arrived(number: int, frame: object) -> None:
        nonlocal count
        count += 1
        if count == times:
            restore()
        note(number)

    for number, handler in before.items():
        if handler != signal.SIG_IGN:
            signal.signal(number, arrived)
    try:
        yield
    finally:
        restore()
