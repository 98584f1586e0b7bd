"""A process that works for a build on this machine, and ends when the build does, also when that
was killed.

Beam's own worker waits for ever for a build that is gone.
"""

import logging
import os
import sys
import threading
import time

_PAUSE = 1.0  # seconds


def command(build: int) -> str:
    """The shell command that starts a worker as a child of the process `build`."""
    return f"exec {sys.executable} -m {__spec__.name} {build}"


def watch(parent: int) -> None:
    """Ends this process once `parent` is not its parent any more."""
    while os.getppid() == parent:
        time.sleep(_PAUSE)
    os._exit(1)


if __name__ == "__main__":
    threading.Thread(target=watch, args=(int(sys.argv[1]),), daemon=True).start()
    # of clouds that it could not reach, and of every start and end
    logging.disable(logging.WARNING)
    from apache_beam.runners.worker import sdk_worker_main

    sdk_worker_main.main(sys.argv[:1])
