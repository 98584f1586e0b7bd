"""Signals that this process ignores, as a shell's background jobs and those of nohup do."""

import signal


def heed_in_children() -> None:
    """Let programs that this process starts heed SIGINT and SIGHUP; here they stay without effect.

    An ignored signal is ignored in all children too. One with a handler has its own effect there.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)
