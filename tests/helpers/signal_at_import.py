"""Run `python -m cv3jax`, which sends itself a signal when it begins to import a module.

    python tests/helpers/signal_at_import.py MODULE NUMBER ARGUMENT ...

So a signal comes at the same moment of a start each time, however busy the machine is. Whatever
signals the process of the tests ignores or blocks, this one begins as a terminal's command does.
"""

import os
import runpy
import signal
import sys


class Sender:
    """A finder of modules that finds none, and sends the signal when it is asked for `name`."""

    def __init__(self, name: str, number: int):
        self.name, self.number = name, number

    def find_spec(self, name: str, path=None, target=None) -> None:
        if name == self.name:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), self.number)


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for one in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(one, signal.SIG_DFL)
    name, number, *arguments = sys.argv[1:]
    sys.meta_path.insert(0, Sender(name, int(number)))
    sys.argv = ["cv3jax", *arguments]
    sys.path[0] = os.getcwd()
    runpy.run_module("cv3jax", run_name="__main__", alter_sys=True)
